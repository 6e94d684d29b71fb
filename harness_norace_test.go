//go:build !race

package mesherstream

const raceDetector = false
