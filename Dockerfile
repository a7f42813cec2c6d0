FROM python:3.11-slim

# The index of a torch for CPUs, as pytorch.org names it; without one, pip brings the torch for CUDA.
ARG TORCH_INDEX=

COPY . /opt/fsgen
WORKDIR /opt/fsgen
RUN pip install --no-cache-dir --no-deps --require-hashes --requirement requirements/study.txt \
    && if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" --constraint constraints.txt torch; \
    fi \
    && pip install --no-cache-dir --no-build-isolation --constraint constraints.txt .

# Any user may run it; compiled code is kept as long as the container is.
ENV NUMBA_CACHE_DIR=/tmp/fsgen
USER nobody
WORKDIR /work
ENTRYPOINT ["fsgen"]
CMD ["--help"]
