// Package proxies tries mesherstream behind nginx, HAProxy, Caddy and Apache, as Debian has them, with the configurations
// that docs/scaling.md shows.
package proxies
