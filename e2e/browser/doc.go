// Package browser tries the browser client, client/mesherstream.js, in Chromium, and uses the example through its page.
// It also lets the EventSource of Chromium and of Firefox follow streams over plain HTTP.
package browser
