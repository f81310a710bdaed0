# A slim image for the CPU:   docker build -t positronic .   docker run --rm -it -v "$PWD/runs-out:/work" positronic demo
#   --build-arg TORCH_INDEX=URL   a package index with the torch build wanted (the default is whatever pip finds)
FROM python:3.12-slim-bookworm

ARG TORCH_INDEX=""
WORKDIR /opt/positronic
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".[demo]" \
    && useradd --create-home --uid 1000 positronic \
    && install -d -o positronic /work

USER 1000:1000
WORKDIR /work
ENTRYPOINT ["positronic"]
CMD ["--help"]
