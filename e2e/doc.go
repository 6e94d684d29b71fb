// Package e2e holds nothing itself. The packages below it try mesherstream from outside, with dependencies and programs
// that the root module must not have.
package e2e
