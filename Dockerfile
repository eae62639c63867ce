# ssltool in a container: docker build -t ssltool . && docker run --rm -v "$PWD:/work" ssltool --help
# By default torch's own build for Linux, with CUDA, which runs on CPUs too; GPUs need --gpus all.
# A smaller image for CPUs, or another CUDA version: --build-arg TORCH_INDEX=URL, the index that
# torch's installation page names for it.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY ssltool ssltool
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
ARG TORCH_INDEX=""
ARG EXTRAS="fast,report"
ENV PYTHONUNBUFFERED=1 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.11" "torchvision>=0.26"
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "$(ls /wheels/ssltool-*.whl)[$EXTRAS]" && rm -r /wheels
RUN useradd --create-home --uid 1000 ssltool && mkdir /work && chown ssltool /work
USER ssltool
WORKDIR /work
ENTRYPOINT ["ssltool"]
CMD ["--help"]
