package mesherstream

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesher/mesherstream/internal/wsframe"
)

// FuzzShard plays what data says on a shard and on the model, and compares what every client got after every turn, down
// to the byte, and every account. It goes on to a shutdown, after which nothing may be left.
func FuzzShard(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(randomScript(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		synctest.Test(t, func(t *testing.T) { playScript(t, data) })
	})
}

// TestAShardDoesWhatTheModelSays plays random scripts. One that fails is kept among the seeds of FuzzShard.
func TestAShardDoesWhatTheModelSays(t *testing.T) {
	scripts := uint64(300)
	if *long {
		scripts = 20_000
	}
	for seed := range scripts {
		script := randomScript(seed)
		if ok := t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { playScript(t, script) })
		}); !ok {
			file := filepath.Join("testdata", "fuzz", "FuzzShard", fmt.Sprint("seed-", seed))
			content := fmt.Appendf(nil, "go test fuzz v1\n[]byte(%q)\n", script)
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, content, 0o644)); err != nil {
				t.Error(err)
			}
			t.Fatalf("kept as %s", file)
		}
	}
}

func randomScript(seed uint64) []byte {
	random := rand.New(rand.NewPCG(seed, 1))
	script := make([]byte, 20+random.IntN(600))
	for i := range script {
		script[i] = byte(random.Uint32())
	}
	return script
}

// maxSteps bounds a script, and with it how long the fuzzer looks at one.
const maxSteps = 400

func playScript(t *testing.T, script []byte) {
	p := &player{T: t, script: script}
	r := rules{
		maxBuffer:  pick(p, 1, 2, 3, 8, 100),
		maxBytes:   pick(p, 64, 200, 1000, 40_000, 1<<20),
		overflow:   pick(p, DropOldest, DropOldest, DropNewest, Disconnect),
		keepLevels: pick(p, nil, nil, []string{"error"}, []string{"error", "info"}),
		window:     pick(p, 1024, 0, 1, 2, 3, 6),
	}
	if r.overflow == Disconnect {
		r.keepLevels = nil // which is all that it allows
	}
	p.play(r, func() {
		for range maxSteps {
			if len(p.script) == 0 || t.Failed() {
				break
			}
			p.step()
			p.settle()
		}
	})
}

// byte takes the next byte of the script, and 0 when it is over.
func (p *player) byte() (b byte) {
	if len(p.script) > 0 {
		b, p.script = p.script[0], p.script[1:]
	}
	return b
}

func pick[T any](p *player, list ...T) T { return list[int(p.byte())%len(list)] }

// step does the next thing of the script.
func (p *player) step() {
	op := p.byte() % 32
	if op < 3 || len(p.clients) == 0 {
		holds, agrees, project := p.byte()%2 == 0, p.byte()%2 == 0, pick(p, "a", "b")
		if filter := pick(p, Filter{}, Filter{}, Filter{Levels: []string{"error"}}); len(p.clients) < 12 {
			p.connect(holds, agrees, project, filter)
		}
		return
	}
	if op < 9 {
		msg := Message{Project: pick(p, "a", "a", "b", ""), Level: pick(p, "", "error", "info"), Environment: pick(p, "", "live", "test")}
		for range pick(p, 1, 1, 2, 3, 10) {
			msg.Data, msg.Binary = p.data(p.size()), p.byte()%4 == 0
			msg.Key = pick(p, "", "", "", "k", "l")
			p.broadcast(msg)
		}
		return
	}
	c := p.clients[int(p.byte())%len(p.clients)]
	switch op {
	case 9:
		n := c.twin.written
		p.arrive(c, wsframe.OpText, fmt.Append(nil, modelAck, pick(p, n, n, n, max(n-1, 0), n/2, n+1, c.twin.acked), "}"))
	case 10, 11:
		p.bufferMessage(c, p.data(p.size()))
	case 12, 13, 14, 15:
		p.grant(c, pick(p, 1, 2, 3, 7, 60, 125, 500, 5000, 20_000, 1<<20))
	case 16, 17:
		request := pick(p, modelRequests...)
		for range pick(p, 1, 1, 1, 22, 30) { // more than 20 at once are too many for a client that has saved none
			p.arrive(c, wsframe.OpText, []byte(request.text))
		}
	case 18:
		p.arrive(c, wsframe.OpPing, []byte(pick(p, "", "a", "bb", strings.Repeat("c", wsframe.MaxControlPayload))))
	case 19:
		p.arrive(c, wsframe.OpPong, nil)
	case 20:
		p.arrive(c, wsframe.OpClose, pick(p, nil, []byte("\x03\xE8"), []byte("\x0F\xA1bye")))
	case 21:
		p.arrive(c, pick[byte](p, wsframe.OpBinary, frameBroken, frameEnd, frameEnd), nil)
	case 22:
		p.setFilter(c, pick(p, Filter{}, Filter{Levels: []string{"info"}}, Filter{Environments: []string{"live"}}))
	case 23:
		p.disconnect(c, pick(p, 1000, 1011, 4000))
	case 24:
		p.fail(c)
	case 25, 26:
		p.drain()
	case 27:
		p.beat()
		for range pick(p, 0, 0, 3, 6) { // long enough for a client to be idle
			p.sleep(12 * time.Second)
			p.beat()
			p.turn()
		}
	case 28:
		p.sleep(pick(p, 5*time.Millisecond, 30*time.Millisecond, 300*time.Millisecond, time.Second, 3*time.Second, 90*time.Second))
	case 29:
		if b := p.byte(); b%8 == 0 { // or most scripts would end early
			p.shutdown(b%16 == 0)
		}
	default:
		for range pick(p, 1, 1, 1, 1, 1, 30) {
			p.turn()
		}
	}
}

// size is one of those around which something changes.
func (p *player) size() int {
	return pick(p, 0, 1, 2, 7, 30, 30, 60, 60, 100, 121, 125, 126, 300, 900, 16<<10-4, 70_000)
}
