package mesherstream

import "errors"

var (
	// ErrUnknownClient is returned by BufferMessage, SetFilter and Disconnect when no streaming client has that
	// [ClientID]: it never had, or it has left.
	ErrUnknownClient = errors.New("mesherstream: unknown client")

	// ErrClosed is returned by every call that needs a running [Manager] after Shutdown has begun.
	ErrClosed = errors.New("mesherstream: manager is closed")

	// ErrNotMounted is returned by every method of a nil [Manager] that returns an error. [From] returns a nil Manager if the
	// request has passed no middleware of New: mount New before the handlers that call From.
	ErrNotMounted = errors.New("mesherstream: no manager: mount New before the handlers that call From")

	// ErrTooLarge is returned by Broadcast and BufferMessage when a message is longer than [WithMaxBufferBytes]: no
	// client could ever buffer it.
	ErrTooLarge = errors.New("mesherstream: message too large")

	// ErrInvalidUTF8 is returned by Broadcast and BufferMessage when the data of a text message is not UTF-8. A browser
	// that got such a frame would have to close the connection.
	ErrInvalidUTF8 = errors.New("mesherstream: text message is not valid UTF-8")

	// ErrInvalidFilter is returned by SetFilter, and by Serve for its subscription, when a filter has more than 16
	// values in a list, or a value that is over 64 bytes or no UTF-8.
	ErrInvalidFilter = errors.New("mesherstream: invalid filter")

	// ErrNotGranted is returned by SetFilter when none of the filter's values are among those that the client was
	// granted by [WithAuthorize] or by the subscription given to Serve.
	ErrNotGranted = errors.New("mesherstream: filter is outside of what was granted")

	// ErrInvalidClose is returned by Disconnect when the code may not be sent in a close frame, or when the reason is
	// over 123 bytes or no UTF-8.
	ErrInvalidClose = errors.New("mesherstream: invalid close code or reason")

	// ErrTooManyClients is returned by Serve when [WithMaxClients] or [WithMaxClientsPerIP] is reached; the client has
	// been told with close code 1013.
	ErrTooManyClients = errors.New("mesherstream: too many clients")

	// ErrInvalidOption is wrapped, once for each invalid option, by the error that NewManager returns and New panics
	// with.
	ErrInvalidOption = errors.New("mesherstream: invalid option")
)
