"""Run by Spark's own Python: answers each line of JSON on standard input with one on standard output."""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql.types import StructType, TimestampNTZType, TimestampType

SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.memory": "1g",
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.parquet.inferTimestampNTZ.enabled": "true",
    # Of a few hundred rows, what compiling saves is a small part of what it takes.
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}


def value(kind: Any, text: Any) -> Any:
    """A value of JSON as a column of this kind takes it."""
    if text is not None and isinstance(kind, (TimestampType, TimestampNTZType)):
        return datetime.fromisoformat(text)
    return text


def answer(spark: SparkSession, question: dict[str, Any]) -> list[dict[str, Any]]:
    """Carry out one question."""
    if "sql" in question:
        return [row.asDict(recursive=True) for row in spark.sql(question["sql"]).collect()]
    if "files" in question:
        spark.read.parquet(*question["files"]).createOrReplaceTempView(question["view"])
        return []
    schema = StructType.fromDDL(question["schema"])
    rows = [[value(field.dataType, cell) for field, cell in zip(schema, row, strict=True)] for row in question["rows"]]
    spark.createDataFrame(rows, schema).cache().createOrReplaceTempView(question["view"])
    return []


def main() -> None:
    """Answer until standard input ends."""
    os.environ["TZ"] = "UTC"
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Java says on standard output is no answer
    builder = SparkSession.builder.master("local[1]")
    for name, setting in SETTINGS.items():
        builder = builder.config(name, setting)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("FATAL")
    for line in sys.stdin:
        try:
            given: dict[str, Any] = {"rows": answer(spark, json.loads(line))}
        except Exception as error:  # noqa: BLE001  told to the other end
            given = {"error": f"{type(error).__name__}: {str(error)[:3000]}"}
        answers.write(json.dumps(given, default=str) + "\n")
        answers.flush()
    spark.stop()


if __name__ == "__main__":
    main()
