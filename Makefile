# The usual commands, by name.
.PHONY: run test race lint bench fuzz soak attack network release ci

run:            # the example on http://127.0.0.1:3000, with demo events
	go run ./example -demo 5

test:           # lists at the end the tests that were not run, and why
	go run ./tools/test

race:           # needs a C compiler
	go run ./tools/test -race -shuffle=on

lint:
	go tool gofumpt -l .
	go vet work
	go tool staticcheck work

bench:          # every scenario against every peer, three quarters of an hour; writes the tables of bench/RESULTS.md and the chart
	go run ./bench/cmd/compare -scenario all -seconds 1200ms -warmup 300ms -write bench/RESULTS.md -svg bench/results.svg
	go run ./bench/cmd/herd -rounds 3 -missed 0,100 -over 5s -write bench/RESULTS.md

fuzz:           # each target for a minute
	for p in . ./internal/request ./internal/sieve ./internal/wsframe ./test ./example/internal/logline; do for t in $$(go test -list '^Fuzz' $$p | grep ^Fuzz); do go test -run='^$$' -fuzz="^$$t$$" -fuzztime=1m $$p || exit 1; done; done

soak:           # half an hour without the race detector, then half an hour with it
	go test -count=1 -v -timeout 60m ./e2e/soak -duration 30m
	go test -count=1 -v -timeout 60m -race ./e2e/soak -duration 30m -viewers 12 -pace 40ms

attack:
	go test -count=1 -v -timeout 20m ./e2e/attack -long

network:        # needs root, for network namespaces
	go test -count=1 -v -timeout 30m ./e2e/network -long

release:        # VERSION=v0.1.0 works in a clone; TAG=1 also copies the tags here; without VERSION it rehearses
	go run ./tools/release $(if $(TAG),-tag) $(VERSION)

ci:
	.ci/run
