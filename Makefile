# Everything that is done to this repository, in one place: CI calls these
# targets, so what passes here passes there. `make help` lists them.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -s -w -X main.version=$(VERSION)
PKGS     ?= ./...
FUZZTIME ?= 30s
WHAT     ?= micro cases
COUNT    ?= 6
TOOL     := go tool -modfile=tools/go.mod

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## bin/cairn, static
	CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)" -o bin/cairn ./cmd/cairn

.PHONY: demo
demo: build ## build and run the bookinfo mesh on this machine (Ctrl-C ends it)
	bin/cairn up examples/bookinfo

.PHONY: test
test: packages ## every test of the module, in random order
	go test -shuffle=on $(PKGS)

.PHONY: race
race: packages ## the tests under the race detector
	go test -race -shuffle=on $(PKGS)

SEEDS ?= 10000

.PHONY: schedules
schedules: ## SEEDS (10000) random schedules of the waypoint over connections in memory
	go test ./proxy/waypoint -run 'TestSchedules$$' -count=1 -seeds $(SEEDS)

.PHONY: packages
packages:
	@scripts/packages.sh curl openssl nsenter valgrind

.PHONY: lint
lint: ## gofmt, go vet and golangci-lint
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "not gofmt-ed:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet $(PKGS)
	$(TOOL) golangci-lint run --timeout 20m $(PKGS)

.PHONY: vuln
vuln: ## known vulnerabilities in what is linked (needs the network)
	$(TOOL) govulncheck $(PKGS)

.PHONY: fuzz
fuzz: ## every fuzz target of PKGS for FUZZTIME (30s) each
	scripts/fuzz.sh $(FUZZTIME) $(PKGS)

.PHONY: bench
bench: build ## side by side with Envoy, every case, in under 40 minutes: ARGS="-cases NAME,NAME"
	$(MAKE) -C conformance bench CAIRN=$(CURDIR)/bin/cairn

.PHONY: bench-quick
bench-quick: build ## the same for a few cases, in under three minutes
	$(MAKE) -C conformance bench CAIRN=$(CURDIR)/bin/cairn ARGS="-quick $(ARGS)"

.PHONY: bench-compare
bench-compare: build ## this tree beside BASE=REV, by benchstat: WHAT="micro cases" COUNT=6
	scripts/bench-compare.sh "$(BASE)" "$(WHAT)" "$(COUNT)"

.PHONY: bench-once
bench-once: ## every Go benchmark once, so that none rots
	go test -run '^$$' -bench . -benchtime 1x -benchmem $(PKGS)

.PHONY: stages
stages: build ## where the CPU time of a request goes, from a profile: CASE=grpc-unary
	CASE=$(CASE) scripts/stages.sh

.PHONY: pgo
pgo: ## a fresh cmd/cairn/default.pgo from the benchmark's load; what it gains, and costs
	scripts/pgo.sh profile
	scripts/pgo.sh compare
	scripts/pgo.sh size

.PHONY: conformance
conformance: build ## Envoy, curl, nghttp2, grpc-go, SPIRE and h2spec against Cairn
	$(MAKE) -C conformance conformance CAIRN=$(CURDIR)/bin/cairn

.PHONY: image
image: ## the container image; without Docker its stages by hand, and a run from an empty root
	scripts/image.sh

.PHONY: check
check: ## what CI runs
	.ci/run
