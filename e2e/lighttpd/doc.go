// Package lighttpd tests a stream through lighttpd's mod_proxy, which asks for an upgrade and for the end of the connection
// in one header line. It also tests streams over plain HTTP through it.
package lighttpd
