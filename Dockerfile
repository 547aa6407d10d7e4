# The release build of the plugin's root file system:
#   docker build --output build/plugin/rootfs .
# `make plugin` makes the same tree without any registry.
FROM golang:1.26.8-bookworm AS build
ARG TARGETARCH=amd64
ARG VERSION=
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 GOARCH=$TARGETARCH go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /weft ./cmd/weft \
 && packaging/rootfs.sh $TARGETARCH /weft /rootfs

FROM scratch
COPY --from=build /rootfs /
ENTRYPOINT ["/usr/bin/weft", "serve"]
