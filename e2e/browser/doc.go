// Package browser tries the browser client, client/mesherstream.js, in Chromium.
package browser
