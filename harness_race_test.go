//go:build race

package mesherstream

const raceDetector = true
