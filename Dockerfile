# One file, three images; the argument TORCH chooses:
#
#   docker build --build-arg TORCH=none -t pawlens:local-service .   API, io workers, beat: they never load torch
#   docker build --build-arg TORCH=cpu  -t pawlens:local-cpu .       model workers on CPUs
#   docker build --build-arg TORCH=cuda -t pawlens:local-cuda .      model workers on NVIDIA GPUs
#
# All hold the same code and weights, and every command of `pawlens` but those that compute runs in each.

ARG PYTHON=3.11.15-slim-trixie
ARG TORCH=cpu

FROM python:${PYTHON} AS python
ENV PATH=/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1


# What is installed depends on these two files alone, so that a change of the code installs nothing anew.
FROM python AS packages-none
WORKDIR /build
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; \
      project = tomllib.load(open('pyproject.toml', 'rb')); \
      needed = project['build-system']['requires'] + project['project']['dependencies']; \
      print(*(name for name in needed if not name.startswith('torch')), sep='\n')" > requirements.txt \
    && python -m venv /venv
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c constraints.txt -r requirements.txt

# PyTorch's own index has wheels without CUDA, a tenth as large. Only the two packages come from there, so that
# it cannot put a package of its own in the place of one of PyPI's.
FROM packages-none AS packages-cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c constraints.txt --no-deps --index-url https://download.pytorch.org/whl/cpu torch torchvision \
    && pip install -c constraints.txt torch torchvision

# PyPI's wheels bring the CUDA libraries along; of the host they need NVIDIA's driver and container toolkit.
FROM packages-none AS packages-cuda
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -c constraints.txt torch torchvision

# hadolint ignore=DL3006
FROM packages-${TORCH} AS packages


FROM python AS pawlens
RUN groupadd --gid 10001 pawlens \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin pawlens
COPY --link --from=packages /venv /venv
WORKDIR /app
# Modes are set, because those of a checkout depend on the umask of whoever made it, and owned by root, because
# the service has no business to change its own code.
COPY --link --chmod=755 weights/ weights/
COPY --link --chmod=755 pyproject.toml README.md LICENSE ./
COPY --link --chmod=755 configs/ configs/
COPY --link --chmod=755 migrations/ migrations/
COPY --link --chmod=755 core/ core/
COPY --link --chmod=755 worker/ worker/
COPY --link --chmod=755 api/ api/
# Installed in place: weights, configuration and migrations are found beside the code.
RUN pip install --no-cache-dir --no-deps --no-build-isolation --no-index --editable . \
    && python -m compileall -q api core migrations worker

# Whatever is written, by ourselves or by a library, goes to /tmp: the root file system may be read-only.
ENV HOME=/tmp \
    PAWLENS_DATA_DIR=/tmp/pawlens
# Named by number, so that Kubernetes' runAsNonRoot can see that it is not root.
USER 10001:10001

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Pawlens" \
      org.opencontainers.image.description="Cat or dog, and why: an asynchronous job service around a ResNet-101." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# What is healthy differs from role to role; docker-compose.yml and docs/deploy.md say it for each.
HEALTHCHECK NONE
EXPOSE 8000
CMD ["pawlens", "api"]
