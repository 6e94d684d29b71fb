package mesherstream

// backlog is the queue of messages that wait for one client: a ring with two bounds, a number of messages and a number
// of bytes. When either is exceeded, the oldest messages leave.
//
// A channel would not do: it can't drop its oldest without a race between the reader and the one who drops, it can't
// count bytes, and it takes its whole memory at once. The slots of this ring hold pointers to messages that all clients
// share, they are made when the first message has to wait, and a ring that has grown gives them back when it is empty,
// so that a client that keeps up costs nothing.
//
// A backlog belongs to its shard's goroutine.
type backlog struct {
	slots []*message
	first uint64 // the number of the oldest message; counts all that ever left
	next  uint64 // the number that the next message gets; counts all that ever came
	bytes int
}

// The ring starts with minSlots, and keeps up to that many when it is empty.
const minSlots = 8

func (b *backlog) len() int { return int(b.next - b.first) }

// push appends m and returns how many of the oldest messages had to leave for it. A message that is larger than
// maxBytes alone is the caller's mistake (Broadcast refuses it).
func (b *backlog) push(m *message, maxMessages, maxBytes int) (dropped int) {
	for b.len() > 0 && (b.len() >= maxMessages || b.bytes+len(m.frame) > maxBytes) {
		b.pop()
		dropped++
	}
	if b.len() == len(b.slots) {
		b.grow(maxMessages)
	}
	b.slots[b.next%uint64(len(b.slots))] = m
	b.next++
	b.bytes += len(m.frame)
	return dropped
}

// peek appends the oldest messages to dst: at most n of them, at most limit bytes of frames, but at least one.
func (b *backlog) peek(dst []*message, n, limit int) []*message {
	size := 0
	for i := b.first; i < b.next && n > 0; i++ {
		m := b.slots[i%uint64(len(b.slots))]
		size += len(m.frame)
		if i > b.first && size > limit {
			break
		}
		dst = append(dst, m)
		n--
	}
	return dst
}

// discard removes the n oldest messages.
func (b *backlog) discard(n int) {
	for range n {
		b.pop()
	}
	if b.len() == 0 && len(b.slots) > minSlots {
		b.slots = nil
	}
}

func (b *backlog) pop() {
	slot := &b.slots[b.first%uint64(len(b.slots))]
	b.bytes -= len((*slot).frame)
	*slot = nil // or a message would live for as long as the slot isn't used again
	b.first++
}

// grow doubles the slots. Each message moves to the place that its number has in the larger ring.
func (b *backlog) grow(maxMessages int) {
	slots := make([]*message, min(max(minSlots, 2*len(b.slots)), maxMessages))
	for i := b.first; i < b.next; i++ {
		slots[i%uint64(len(slots))] = b.slots[i%uint64(len(b.slots))]
	}
	b.slots = slots
}
