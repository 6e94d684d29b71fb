package mesherstream

// inbox is what waits for a shard. Its casts are done in order; its events, which come from links, have no order with
// the casts and go first.
type inbox struct {
	casts  []cast
	events []event
	all    load // of the casts
	shared load // of those that clients of every project get
	drain  bool
	beats  int
}

// load is how many of the casts somebody gets, and how many bytes they may add to a buffer.
type load struct {
	messages, bytes int
}

// The bounds of an inbox as a whole, unless one buffer may hold more. They are what the messages of many projects come up
// against: the more of these a turn takes, the more of them share a write.
const (
	inboxMessages = 4 << 10
	inboxBytes    = 16 << 20
)

// following is a project that a shard's clients follow.
type following struct {
	clients int
	load    load   // what these get of the inbox that the turn takes
	turn    uint64 // which one that is
}

// A cast is a message for every client that it matches, or something else to do. do is called on the shard's goroutine.
type cast struct {
	message *message
	do      func()
}

// An event is what a link tells its shard.
type event struct {
	kind    eventKind
	op      byte
	client  *client
	n       int
	payload []byte
	err     error
}

type eventKind uint8

const (
	eventJoined   eventKind = iota // the first one of each client
	eventWritable                  // n more held bytes have gone out, and the link can take more; or err
	eventReady                     // the link's poller has a hint for it
	eventReceived                  // a message or a control frame of the client: op and payload
	eventResume                    // the Message hook has returned
	eventRefused                   // what the client sent is against the protocol: err is a *closeError
	eventEnded                     // nothing more will come: err
	eventCut                       // the client has not ended the close handshake in time
)

func (l load) takes(bytes, mostMessages, mostBytes int) bool {
	return l.messages < mostMessages && l.bytes+bytes <= mostBytes
}

func (l *load) add(bytes int) {
	l.messages++
	l.bytes += bytes
}

// castLocked puts a cast for the clients of a project into the inbox, or of all projects, when there is room.
func (s *shard) castLocked(c cast, project string, bytes int) error {
	for !s.closed && !s.hasRoom(project, bytes) {
		s.room.Wait()
	}
	if err := s.stateLocked(); err != nil {
		return err
	}
	s.inbox.casts = append(s.inbox.casts, c)
	s.inbox.all.add(bytes)
	switch f := s.followers[project]; {
	case project == "":
		s.inbox.shared.add(bytes)
	case f != nil: // it is nil where the last of them has left meanwhile
		if f.turn != s.turns {
			f.turn, f.load = s.turns, load{}
		}
		f.load.add(bytes)
	}
	s.wake.Signal()
	return nil
}

// hasRoom makes sure that no turn brings a client more than a buffer takes that was empty before. A message that is the
// only one always has room.
func (s *shard) hasRoom(project string, bytes int) bool {
	in := &s.inbox
	theirs := in.all
	if project != "" {
		theirs = in.shared
		if f := s.followers[project]; f != nil && f.turn == s.turns {
			theirs.messages += f.load.messages
			theirs.bytes += f.load.bytes
		}
	}
	return in.all.messages == 0 ||
		(theirs.messages == 0 || theirs.takes(bytes, s.cfg.maxBuffer, s.cfg.maxBufferBytes)) &&
			in.all.takes(bytes, max(inboxMessages, s.cfg.maxBuffer), max(inboxBytes, s.cfg.maxBufferBytes))
}

func (in *inbox) isEmpty() bool {
	return len(in.casts) == 0 && len(in.events) == 0 && !in.drain && in.beats == 0
}

// reset empties the inbox and keeps its memory for the next turn but one, unless a storm has made it large.
func (in *inbox) reset() {
	clear(in.casts)
	clear(in.events)
	*in = inbox{casts: in.casts[:0], events: in.events[:0]}
	if cap(in.events) > 1<<12 {
		in.events = nil
	}
	if cap(in.casts) > 2*inboxMessages {
		in.casts = nil
	}
}
