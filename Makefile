# The commands of README.md and .ci/run, by name.
.PHONY: run test race lint bench fuzz ci

run:            # the example on http://127.0.0.1:3000, with demo events
	go run ./example -demo 5

test:
	go test work

race:
	go test -race -shuffle=on work

lint:
	go tool gofumpt -l .
	go vet work
	go tool staticcheck work

bench:          # every scenario against every peer, for hours; RESULTS.md is made of what it writes
	go run ./bench/cmd/compare -scenario all -markdown results.md -json results.json -svg results.svg

fuzz:           # each target for a minute
	for t in $$(go test -list '^Fuzz' . | grep ^Fuzz); do go test -run='^$$' -fuzz="^$$t$$" -fuzztime=1m . || exit 1; done

ci:
	.ci/run
