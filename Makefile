# Bare `make` prints what there is to make.
#
# There are two settings that decide which binary comes out, and they are here
# and nowhere else, so that nobody builds another one by accident:
#   TAGS     none is needed: cluster/raftmetrics.go gets hashicorp/raft's
#            metrics with and without the tag `hashicorpmetrics`.
#   VERSION  what `snipdb version` says.

SHELL       := /bin/bash
TAGS        :=
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS     := -X main.version=$(VERSION)
GOFLAGS_ALL := -tags=$(TAGS) -buildvcs=false
TEST_TIME   := 18m
FUZZ_TIME   ?= 10s

# Pinned, because a new linter is a change like any other.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
PROTOC_GEN  := google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12

.DEFAULT_GOAL := help

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install the Debian packages that are missing (build does it by itself)
	@deploy/setup.sh

build: setup ## build bin/snipdb and bin/snipctl
	go build $(GOFLAGS_ALL) -ldflags '$(LDFLAGS)' -o bin/snipdb ./cmd/snipdb
	CGO_ENABLED=0 go build $(GOFLAGS_ALL) -ldflags '$(LDFLAGS)' -o bin/snipctl ./cmd/snipctl

run: build ## three nodes on this machine with Go's own documentation in them; DIR=folder keeps the data
	@deploy/run.sh $${DIR:+"$$DIR"}

# One package at a time: the tests with real clusters have timers, and two of
# them at once on two cores measure the machine instead of the code.
test: setup ## all tests, the ones with real processes included
	go build $(GOFLAGS_ALL) ./...
	go test $(GOFLAGS_ALL) -p 1 -timeout $(TEST_TIME) ./...

# Servers of their own: package proctest builds them with the detector, and a
# node that had a race fails its test. RocksDB is C++, and is not looked at.
race: setup ## all tests under the race detector, and real processes with it: the end-to-end tests and a minute of chaos
	go test $(GOFLAGS_ALL) -race -short -timeout 30m ./...
	PROCTEST_RACE=1 go test $(GOFLAGS_ALL) -race -count 1 -p 1 -timeout 30m ./cmd/proctest ./cmd/snipdb
	PROCTEST_RACE=1 SNIPDB_CHAOS_SEED=$(SEED) SNIPDB_CHAOS_DURATION=60s \
		go test $(GOFLAGS_ALL) -race -count 1 -timeout 30m -v -run '^TestChaos$$' ./cmd/chaos

lint: setup lint-format lint-vet lint-static lint-vuln ## gofmt, go vet, staticcheck, govulncheck

lint-format:
	@files=$$(gofmt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$')); \
	if [ -n "$$files" ]; then echo "gofmt: not formatted:"; echo "$$files"; exit 1; fi
	@echo "gofmt: ok"

# The packages with files that only a tag compiles; all others are the same
# with and without.
TAGGED := ./storage/failpoint ./storage/mutant

lint-vet:
	go vet $(GOFLAGS_ALL) ./...
	@for tags in failpoints mutants; do echo "go vet -tags $$tags $(TAGGED)"; go vet -tags $$tags $(TAGGED) || exit 1; done

lint-static:
	go run $(STATICCHECK) -tags '$(TAGS)' ./...
	@for tags in failpoints mutants; do echo "staticcheck -tags $$tags $(TAGGED)"; go run $(STATICCHECK) -tags $$tags $(TAGGED) || exit 1; done

# The vulnerability data base is on the network. Without it nothing was
# checked, and that is said; a finding fails, no data base does not.
lint-vuln:
	@out=$$(mktemp); trap 'rm -f "$$out"' EXIT; \
	if go run $(GOVULNCHECK) -tags '$(TAGS)' ./... >"$$out" 2>&1; then echo "govulncheck: ok"; \
	elif grep -q -e 'vuln.go.dev' "$$out" && ! grep -q '^Vulnerability #' "$$out"; then \
		echo "govulncheck: NOT CHECKED: the data base at https://vuln.go.dev cannot be reached from here:"; \
		grep -m 1 'vuln.go.dev' "$$out"; \
	else cat "$$out"; exit 1; fi

proto: ## make fsm/command/command.pb.go and others anew from their .proto files
	@command -v protoc >/dev/null || { echo "protoc is missing: apt-get install protobuf-compiler"; exit 1; }
	@dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; GOBIN=$$dir go install $(PROTOC_GEN); \
	for file in $$(git ls-files '*.proto'); do \
		echo "protoc $$file"; \
		PATH=$$dir:$$PATH protoc --go_out=. --go_opt=paths=source_relative $$file || exit 1; \
	done

# At the end of its time go test now and then fails with "context deadline
# exceeded" and no input: that is no finding.
fuzz: setup ## every fuzz test for FUZZ_TIME (10s) each
	@failed=; out=$$(mktemp); trap 'rm -f "$$out"' EXIT; for file in $$(git grep -l '^func Fuzz' -- '*_test.go'); do \
		for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$file); do \
			echo "$$name in ./$$(dirname $$file)"; \
			go test $(GOFLAGS_ALL) -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZ_TIME) ./$$(dirname $$file) >"$$out" 2>&1 && ok=1 || ok=; \
			tail -n 20 "$$out"; \
			if [ -z "$$ok" ] && { grep -q 'Failing input' "$$out" || ! grep -q 'context deadline exceeded' "$$out"; }; then failed="$$failed $$name"; fi; \
		done; \
	done; \
	if [ -n "$$failed" ]; then echo "fuzz: failed:$$failed"; exit 1; fi; echo "fuzz: ok"

chaos: setup ## faults against real processes; SEED=n repeats a run, DURATION=30m makes it long, RUNS=n makes more of them, FAULTS=kill_all,ring only these
	SNIPDB_CHAOS_SEED=$(SEED) SNIPDB_CHAOS_DURATION=$(DURATION) SNIPDB_CHAOS_FAULTS=$(FAULTS) \
		go test $(GOFLAGS_ALL) -count $(or $(RUNS),1) -timeout 24h -v -run '^TestChaos$$' ./cmd/chaos

soak: setup ## chaos for 30 minutes (DURATION) with quiet phases: memory, files, goroutines must stay flat; a line a minute
	SNIPDB_CHAOS_SOAK=1 SNIPDB_CHAOS_SEED=$(SEED) SNIPDB_CHAOS_DURATION=$(DURATION) SNIPDB_CHAOS_FAULTS=$(FAULTS) \
		go test $(GOFLAGS_ALL) -count 1 -timeout 72h -v -run '^TestChaos$$' ./cmd/chaos

disk: setup ## full disks alone, RUNS=n times (make test has them too); needs root for small mounts
	go test $(GOFLAGS_ALL) -count=$(or $(RUNS),1) -timeout 60m -run 'FullDisk|DisksFull|DiskIsTakenAway' ./storage ./cmd/snipdb

crash-matrix: setup ## kill a node at each failpoint under load; POINT=pattern for some, PART=2/5 for a fifth, SEED=n for the same moments again
	SNIPDB_CRASH_MATRIX=1 SNIPDB_CRASH_SEED=$(SEED) SNIPDB_CRASH_PART=$(PART) SNIPDB_CRASH_POINT='$(POINT)' \
		go test $(GOFLAGS_ALL) -count 1 -v -timeout 90m -run '^TestCrashMatrix$$' ./cmd/crashmatrix

power-cut: setup ## the same with a power cut, which takes all that was not synced; needs root, for mounts; POINT, PART and SEED as above
	SNIPDB_POWER_CUT=1 SNIPDB_CRASH_SEED=$(SEED) SNIPDB_CRASH_PART=$(PART) SNIPDB_CRASH_POINT='$(POINT)' \
		go test $(GOFLAGS_ALL) -count 1 -v -timeout 30m -run '^TestPowerCut$$' ./cmd/crashmatrix

mutants: setup ## make mistakes on purpose, one by one: each must be caught; MUTANT=name for one, SEED=n; needs root, for mounts
	SNIPDB_MUTANTS=1 SNIPDB_MUTANTS_ONLY=$(MUTANT) SNIPDB_MUTANTS_SEED=$(SEED) go test $(GOFLAGS_ALL) -count 1 -v -timeout 90m -run '^TestMutants$$' ./cmd/mutants

bench: setup ## every Go benchmark, once
	go test $(GOFLAGS_ALL) -run '^$$' -bench . -benchtime 1x -timeout 30m ./...

clean: ## remove what make built
	rm -rf bin

.PHONY: chaos disk soak power-cut mutants help setup build run test race lint lint-format lint-vet lint-static lint-vuln proto fuzz crash-matrix bench clean
