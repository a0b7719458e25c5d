"""Opens an endpoint's folder of predictions as docs/predictions.md says, and prints, for each reader,
how many rows it finds, the columns that are asked for by name and how many of their values are there."""

import json
import sys
from pathlib import Path

import duckdb
import pandas
import polars

folder, columns = Path(sys.argv[1]), sys.argv[2:]
files = sorted(folder.glob("*.parquet"))


def by_pandas(frame):
    return [len(frame), [int(frame[column].notna().sum()) for column in columns]]


def by_polars(frame):
    return [len(frame), [int(frame[column].is_not_null().sum()) for column in columns]]


def by_duckdb(options):
    counts = ", ".join(f'count("{column}")' for column in columns)
    query = f"SELECT count(*), {counts} FROM read_parquet('{folder}/*.parquet'{options})"
    [(count, *values)] = duckdb.sql(query).fetchall()
    return [count, values]


ways = {
    "pandas": lambda: by_pandas(pandas.read_parquet(folder)),
    "polars": lambda: by_polars(polars.read_parquet(folder / "*.parquet")),
    "duckdb": lambda: by_duckdb(""),
    "pandas, each": lambda: by_pandas(pandas.concat(map(pandas.read_parquet, files))),
    "polars, each": lambda: by_polars(
        polars.concat(map(polars.read_parquet, files), how="diagonal")
    ),
    "duckdb, by name": lambda: by_duckdb(", union_by_name = true"),
}
read = {}
for name, way in ways.items():
    try:
        read[name] = way()
    except Exception as problem:
        read[name] = f"{type(problem).__name__}: {problem}"
print(json.dumps(read))
