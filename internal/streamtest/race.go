//go:build race

package streamtest

const RaceDetector = true
