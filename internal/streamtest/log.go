package streamtest

import (
	"bytes"
	"strings"
	"sync"
)

// LogBuffer keeps everything that is logged.
type LogBuffer struct {
	Mu  sync.Mutex
	Buf bytes.Buffer
}

func (b *LogBuffer) Write(p []byte) (int, error) {
	b.Mu.Lock()
	defer b.Mu.Unlock()
	return b.Buf.Write(p)
}

func (b *LogBuffer) Count(s string) int {
	b.Mu.Lock()
	defer b.Mu.Unlock()
	return strings.Count(b.Buf.String(), s)
}

// String returns all that has been logged.
func (b *LogBuffer) String() string {
	b.Mu.Lock()
	defer b.Mu.Unlock()
	return b.Buf.String()
}
