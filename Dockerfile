# One image for every service of docker-compose.yml; the command decides which one it is.
FROM python:3.11-slim AS packages

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
COPY requirements.lock /tmp/requirements.lock
RUN /opt/venv/bin/pip install --require-hashes -r /tmp/requirements.lock

FROM python:3.11-slim

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DAGSTER_HOME=/var/lib/dagster \
    FRAUD_LAKE=/var/lib/fraud_lakehouse/lake

# Volumes mounted over these two folders take their owner from here.
RUN useradd --uid 10001 --create-home fraud \
    && install --directory --owner=fraud --group=fraud /var/lib/dagster /var/lib/fraud_lakehouse /app

COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY . .
# Editable: the dbt project and the benchmarks are read beside the package.
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable .
# The feature engine's kernels, so that no container's start has to compile them.
RUN python -m fraud_lakehouse.features.engine

USER fraud
# Parses the dbt project, so that no container's start has to; a model that does not parse fails here.
RUN fraud-lakehouse docs --folder /tmp/docs && rm -r /tmp/docs

EXPOSE 3000 4000 8080
CMD ["fraud-lakehouse", "live"]
