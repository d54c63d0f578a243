"""Upkeep"""
