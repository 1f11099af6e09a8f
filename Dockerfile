# The command obverse, for CUDA devices or, with the argument PIP_EXTRA_INDEX_URL, for CPUs: docs/packages.md.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY obverse obverse
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:${PYTHON}-slim
# Unset, pip takes torch's CUDA build. Set to PyTorch's index of CPU builds, the image has no CUDA libraries.
ARG PIP_EXTRA_INDEX_URL
# Extras of pyproject.toml, separated by commas; "gpu" adds --load_in_4bit.
ARG EXTRAS=data,peft
# torch alone in a layer: it is most of the image and changes least.
COPY constraints.txt /opt/obverse/
RUN python -m pip install --no-cache-dir -c /opt/obverse/constraints.txt torch
COPY --from=wheel /dist /opt/obverse/
RUN python -m pip install --no-cache-dir -c /opt/obverse/constraints.txt "$(ls /opt/obverse/*.whl)[${EXTRAS}]"

# Runs and downloaded models are written below /workspace, which is meant to be a mounted folder.
ENV HF_HOME=/workspace/.cache/huggingface
RUN useradd --create-home --uid 1000 obverse && install -d -o obverse -g obverse /workspace
USER 1000
WORKDIR /workspace
ENTRYPOINT ["obverse"]
CMD ["--help"]
