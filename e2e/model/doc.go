// Package model holds the streams of real clients against a model: what a random sequence of calls must have brought to
// each of them, in which order, and how many it must have missed. It uses the public API and real sockets only.
//
//	go test ./e2e/model                                             # in seconds
//	go test ./e2e/model -rapid.checks=2000 -rapid.steps=100         # in minutes
//
// A sequence that fails is made as short as possible, and kept in testdata/rapid, from where the next run takes it first.
package model
