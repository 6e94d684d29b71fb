// Package proxies tries mesherstream behind nginx, HAProxy, Caddy and Apache, as Debian has them, with the configurations
// that SCALING.md shows.
package proxies
