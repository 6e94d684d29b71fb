package mesherstream

import "errors"

var (
	// ErrUnknownClient is returned by BufferMessage, SetFilter and Disconnect if no connected client has that
	// [ClientID], either because none ever had or because it has left.
	ErrUnknownClient = errors.New("mesherstream: unknown client")

	// ErrClosed is returned by every call that needs a running [Manager] after Shutdown has begun.
	ErrClosed = errors.New("mesherstream: manager is closed")

	// ErrNotMounted is returned by every method of a nil [Manager] that returns an error. [From] returns a nil Manager
	// if the request has passed no middleware of New: mount New before the handlers that call From.
	ErrNotMounted = errors.New("mesherstream: no manager: mount New before the handlers that call From")

	// ErrTooLarge is returned by Broadcast and BufferMessage when the data of a message is longer than
	// [WithMaxBufferBytes], so that no client could ever buffer it.
	ErrTooLarge = errors.New("mesherstream: message too large")

	// ErrInvalidUTF8 is returned by Broadcast and BufferMessage when the data of a text message is not UTF-8. A browser
	// that received such a frame would have to close the connection.
	ErrInvalidUTF8 = errors.New("mesherstream: text message is not valid UTF-8")

	// ErrInvalidMessage is returned by Broadcast when a field of the message other than Data is too long or not UTF-8.
	// The text of the error names the field. The bounds are given at [Message].
	ErrInvalidMessage = errors.New("mesherstream: invalid message")

	// ErrInvalidFilter is returned by SetFilter, and by Serve for its subscription, when a list of the filter has more
	// than 16 values, or a value is longer than 64 bytes or not UTF-8. Serve also returns it when the project is longer
	// than 128 bytes or not UTF-8.
	ErrInvalidFilter = errors.New("mesherstream: invalid filter")

	// ErrNotGranted is returned by SetFilter when none of the values in a list of the filter were granted to the
	// client, by [WithAuthorize] or by the subscription passed to Serve.
	ErrNotGranted = errors.New("mesherstream: filter is outside of what was granted")

	// ErrInvalidClose is returned by Disconnect when the code may not be sent in a close frame, or when the reason is
	// longer than 123 bytes or not UTF-8.
	ErrInvalidClose = errors.New("mesherstream: invalid close code or reason")

	// ErrTooManyClients is returned by Serve when [WithMaxClients] or [WithMaxClientsPerIP] is reached. The client has
	// already been closed with code 1013.
	ErrTooManyClients = errors.New("mesherstream: too many clients")

	// ErrInvalidOption is wrapped, once for each invalid option, by the error that NewManager returns and New panics
	// with.
	ErrInvalidOption = errors.New("mesherstream: invalid option")
)
