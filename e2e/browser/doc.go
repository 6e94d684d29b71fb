// Package browser tries the browser client, client/mesherstream.js, in Chromium, and uses the example through its page.
package browser
