// Package tools pins the linters of this repository, in a module of its own so that no user of mesherstream pays for
// them.
package tools
