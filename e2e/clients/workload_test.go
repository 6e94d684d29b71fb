package clients

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
)

// A payload is one message of the workload.
type payload struct {
	size   int
	binary bool
}

// workload returns n messages in an order that is random and always the same. The largest are the fewest, since they
// carry the most bytes anyway.
func workload(n int) []payload {
	var list []payload
	seen := make(map[int]int)
	for i := range n {
		var size int
		switch {
		case i%800 < 2:
			size = 1 << 20
		case i%100 < 2:
			size = 65_535 + i%2
		default:
			size = []int{0, 1, 125, 126}[i/2%4]
		}
		list = append(list, payload{size: size, binary: seen[size]%2 == 1})
		seen[size]++
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(n, func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

// letters take one to four bytes each.
var letters = strings.Repeat("aü€😀", 1<<17)

var noise = func() []byte {
	p := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(p)
	return p
}()

// bytes returns the data of the message with that number, which is as unlike the others as its size allows.
func (p payload) bytes(number int) []byte {
	if p.binary {
		data := bytes.Clone(noise[:p.size])
		for i := range min(p.size, 4) {
			data[i] = byte(number >> (8 * i))
		}
		return data
	}
	data := fmt.Appendf(nil, "%x %d ", number%16, number)
	data = data[:min(p.size, len(data))]
	cut := p.size - len(data)
	whole := cut - cut%len("aü€😀")
	data = append(data, letters[:whole]...)
	return append(data, "xxxxxxxxxx"[:cut-whole]...)
}

// A transcript is what was received, or should have been: how many messages of each kind and size, and a digest that any
// other byte, order, loss or repetition changes.
type transcript struct {
	counts   map[string]int
	digest   [sha256.Size]byte
	messages int
}

func (t *transcript) add(binary bool, data []byte) {
	kind := "text"
	if binary {
		kind = "binary"
	}
	if t.counts == nil {
		t.counts = make(map[string]int)
	}
	t.counts[fmt.Sprint(kind, " ", len(data))]++
	h := sha256.New()
	h.Write(t.digest[:])
	h.Write([]byte(kind))
	h.Write(data)
	h.Sum(t.digest[:0])
	t.messages++
}

func (t *transcript) hex() string { return hex.EncodeToString(t.digest[:]) }
