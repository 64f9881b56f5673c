# The image of Cairn: one static binary on an empty base, run as nobody.
# `docker build -t cairn .` needs no argument; `make image` does the same by
# hand where no engine runs.
FROM golang:1.26 AS build
ARG VERSION=dev
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/cairn ./cmd/cairn

FROM gcr.io/distroless/static:nonroot
COPY --from=build /out/cairn /usr/local/bin/cairn
USER 65532:65532
# 15001 outbound, 15006 inbound plain text, 15008 HBONE, 15020 metrics, 15021 readiness
EXPOSE 15001 15006 15008 15020 15021
ENTRYPOINT ["/usr/local/bin/cairn"]
