# Redis that keeps what it was given, and that is nobody from its first moment: with the official image
# as it is, root changes the owner of the data first, for which the root file system must be writable.
ARG REDIS=redis:7-bookworm
# hadolint ignore=DL3006  # the argument names a tag
FROM ${REDIS}
RUN install --directory --owner redis --group redis /data
USER redis
WORKDIR /data
EXPOSE 6379
CMD ["redis-server", "--protected-mode", "no", "--save", "", \
     "--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"]
