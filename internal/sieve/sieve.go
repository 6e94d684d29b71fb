// Package sieve finds those of many filters that a message may pass, without looking at each filter.
//
// A filter is two lists of values, and a message has a value for each. Every value has a few bits in the [Signature] of a
// filter, which depend on its hash, as in a Bloom filter. A sieve holds these signatures as a table of bits with a column
// for each filter, so that one word of a row says of 64 filters whether they have the bit. The words of a message's bits
// are combined, and what is left are the filters that the message may pass: all that it passes, and about 1 in 30 of the
// others for each list that keeps the message out.
//
// The size of a sieve and the cost of a question depend only on the number of filters, not on their values: an inverted
// index from values to filters would need more memory for filters with much in them, and would be slow for a value that
// many of them have. Nobody can choose values that the sieve takes for each other, since the hash is seeded.
package sieve

import (
	"hash/maphash"
	"math/bits"
)

// Lists is how many lists a filter has.
const Lists = 2

// A list of 16 values, the longest one, sets about 40 of its 128 bits.
const (
	rowsOfList   = 128
	rowsOfValue  = 3
	rows         = Lists * rowsOfList
	bitsOfRow    = 7
	wordsOfList  = rowsOfList / 64
	wordsOfTable = rows / 64
)

// width is how many filters a table holds.
const width = 64

var seed = maphash.MakeSeed()

// rowsOf returns the rows of a value.
func rowsOf(list int, value string) (of [rowsOfValue]uint8) {
	hash := maphash.String(seed, value)
	for i := range of {
		of[i] = uint8(list*rowsOfList) | uint8(hash>>(i*bitsOfRow))&(rowsOfList-1)
	}
	return of
}

// A Signature says which values a filter may accept.
type Signature [wordsOfTable]uint64

// Sign returns the signature of a filter. An empty list accepts every value.
func Sign(filter [Lists][]string) (s Signature) {
	for list, values := range filter {
		for _, v := range values {
			for _, row := range rowsOf(list, v) {
				s[row/64] |= 1 << (row % 64)
			}
		}
		if len(values) == 0 {
			for i := range wordsOfList {
				s[list*wordsOfList+i] = ^uint64(0)
			}
		}
	}
	return s
}

// A Question is the message in the form in which a sieve is asked about it.
type Question struct {
	rows [Lists * rowsOfValue]uint8
	n    int
}

// Ask returns the question which filters accept these values. An empty value is accepted by every list.
func Ask(values [Lists]string) (q Question) {
	for list, v := range values {
		if v != "" {
			of := rowsOf(list, v)
			q.n += copy(q.rows[q.n:], of[:])
		}
	}
	return q
}

// A Sieve holds the signatures of filters, which are numbered from 0. The zero value is empty.
type Sieve struct {
	tables []*table
}

// A table has a word for each row, and the words have a bit for each of 64 filters.
type table [rows]uint64

// Put stores the signature of filter i. At most one more filter than there are may be stored.
func (s *Sieve) Put(i int, of Signature) {
	if i/width == len(s.tables) {
		s.tables = append(s.tables, new(table))
	}
	t, column := s.tables[i/width], uint(i%width)
	for word, bits := range of {
		for row := range 64 {
			p := &t[word*64+row]
			*p = *p&^(1<<column) | bits&1<<column
			bits >>= 1
		}
	}
}

// Move stores the signature of one filter as that of another.
func (s *Sieve) Move(from, to int) {
	source, target := s.tables[from/width], s.tables[to/width]
	column, other := uint(to%width), uint(from%width)
	for row := range target {
		target[row] = target[row]&^(1<<column) | source[row]>>other&1<<column
	}
}

// Truncate forgets all filters from n on. It keeps room for some more.
func (s *Sieve) Truncate(n int) {
	if keep := (n+width-1)/width + 1; keep < len(s.tables) {
		clear(s.tables[keep:])
		s.tables = s.tables[:keep]
	}
}

// Next returns the first filter from i on that the message may pass. If there is none, it returns a number that is too
// large for a filter.
func (s *Sieve) Next(q *Question, i int) int {
	left := ^uint64(0) << (i % width)
	for word := i / width; word < len(s.tables); word++ {
		t := s.tables[word]
		for _, row := range q.rows[:q.n] {
			left &= t[row]
		}
		if left != 0 {
			return word*width + bits.TrailingZeros64(left)
		}
		left = ^uint64(0)
	}
	return len(s.tables) * width
}
