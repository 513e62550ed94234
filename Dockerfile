# A server image: the package as `npm pack` makes it, on the Node that the tests run on. It listens on
# all addresses, so it needs keys: SPORE_KEYS, the contents of a keys file.
ARG NODE=26.10.0
FROM node:${NODE}-slim AS package
WORKDIR /spore
COPY . .
RUN npm ci && npm pack --pack-destination /package

FROM node:${NODE}-slim
COPY --from=package /package/*.tgz /package/
RUN npm install --global /package/*.tgz && rm -rf /package && npm cache clean --force \
  && mkdir /data && chown node /data
USER node
# One host, one folder; several hosts: a bucket, SPORE_STORAGE=s3://…
ENV SPORE_STORAGE=file:/data
VOLUME /data
EXPOSE 7070
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
  CMD node -e "fetch('http://127.0.0.1:7070/readyz').then(({ ok }) => process.exit(ok ? 0 : 1), () => process.exit(1))"
# SIGTERM hands partitions over; docker waits 10 s by default, so stop with `--time 40`.
ENTRYPOINT ["spore"]
CMD ["serve", "--host", "0.0.0.0"]
