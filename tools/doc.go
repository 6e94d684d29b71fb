// Package tools pins the linters of this repository. It is a module of its own, so that users of mesherstream don't
// depend on them.
package tools
