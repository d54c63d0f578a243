"""`python -m fraud_lakehouse.cli`."""

from fraud_lakehouse.cli import main

if __name__ == "__main__":
    main()
