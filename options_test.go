package mesherstream

import (
	"errors"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"log/slog"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
)

// An optionRow is the promises about one option: in its doc comment, by its check, and in the README.
type optionRow struct {
	name   string
	typ    string   // as the README writes it
	def    string   // the same
	doc    []string // phrases of the doc comment about default and bounds
	is     any      // the default itself
	get    func(*config) any
	good   []Option
	bad    []Option
	values []string // how the errors name the invalid values
	bounds string   // and the bounds
}

var optionRows = []optionRow{
	{
		name: "WithApp", typ: "*fiber.App", def: "none", doc: []string{"By default there is no app", "A nil app is invalid"},
		is: (*fiber.App)(nil), get: func(c *config) any { return c.app },
		good: []Option{WithApp(fiber.New())}, bad: []Option{WithApp(nil)}, values: []string{"<nil>"}, bounds: "an app",
	},
	{
		name: "WithPath", typ: "string", def: "/stream/projects",
		doc: []string{`default "/stream/projects"`, "made of segments of letters, digits and -._~, each after one slash"},
		is:  "/stream/projects", get: func(c *config) any { return c.path },
		good: []Option{WithPath("/x"), WithPath("/a/b-c/d_e")},
		bad: []Option{
			WithPath(""), WithPath("/"), WithPath("x"), WithPath("/x/"), WithPath("/:id"), WithPath("/*"), WithPath("/+"), WithPath("/x?"),
			WithPath("/a%20b"), WithPath("/x#y"), WithPath("/a b"), WithPath("/a//b"),
		},
		values: []string{`""`, `"/"`, `"x"`, `"/x/"`, `"/:id"`, `"/*"`, `"/+"`, `"/x?"`, `"/a%20b"`, `"/x#y"`, `"/a b"`, `"/a//b"`}, bounds: "a path of segments",
	},
	{
		name: "WithMaxBuffer", typ: "int", def: "100", doc: []string{"default of 100.", "From 1 to 1,000,000 messages"},
		is: 100, get: func(c *config) any { return c.maxBuffer },
		good: []Option{WithMaxBuffer(1), WithMaxBuffer(1_000_000)},
		bad:  []Option{WithMaxBuffer(0), WithMaxBuffer(-1), WithMaxBuffer(1_000_001)}, values: []string{"0", "-1", "1000001"}, bounds: "from 1 to 1000000",
	},
	{
		name: "WithMaxBufferBytes", typ: "int", def: "1 MiB", doc: []string{"default of 1 MiB;", "From 1 byte to 1 GiB"},
		is: 1 << 20, get: func(c *config) any { return c.maxBufferBytes },
		good: []Option{WithMaxBufferBytes(1), WithMaxBufferBytes(1 << 30)},
		bad:  []Option{WithMaxBufferBytes(0), WithMaxBufferBytes(1<<30 + 1)}, values: []string{"0", "1073741825"}, bounds: "from 1 to 1073741824",
	},
	{
		name: "WithOverflow", typ: "Overflow", def: "DropOldest", doc: []string{"default of [DropOldest]", "A value other than the three of [Overflow] is invalid"},
		is: DropOldest, get: func(c *config) any { return c.overflow },
		good: []Option{WithOverflow(DropOldest), WithOverflow(DropNewest), WithOverflow(Disconnect)}, bad: []Option{WithOverflow(3)},
		values: []string{"Overflow(3)"}, bounds: "DropOldest, DropNewest or Disconnect",
	},
	{
		name: "WithKeepLevels", typ: "...string", def: "none", doc: []string{"By default no level is kept", "At most 16 levels, none of them empty, and not together with [Disconnect]", "UTF-8 of at most 64 bytes"},
		is: []string(nil), get: func(c *config) any { return c.keepLevels },
		good:   []Option{WithKeepLevels(), WithKeepLevels("fatal", "error"), WithKeepLevels(strings.Split("abcdefghijklmnop", "")...)},
		bad:    []Option{WithKeepLevels(""), WithKeepLevels(strings.Split("abcdefghijklmnopq", "")...), WithKeepLevels(strings.Repeat("x", 65)), WithKeepLevels("\xFF")},
		values: []string{`[""]`, `["a" "b" "c" "d" "e" "f" "g" "h" "i" "j" "k" "l" "m" "n" "o" "p" "q"]`, `["` + strings.Repeat("x", 65) + `"]`, `["\xff"]`}, bounds: "at most 16 levels, none of them empty, each UTF-8 of at most 64 bytes",
	},
	{
		name: "WithWindow", typ: "int", def: "32,768", doc: []string{"default of 32,768.", "0 turns it off", "to 1,000,000 messages"},
		is: 32_768, get: func(c *config) any { return c.window },
		good: []Option{WithWindow(0), WithWindow(1), WithWindow(1_000_000)},
		bad:  []Option{WithWindow(-1), WithWindow(1_000_001)}, values: []string{"-1", "1000001"}, bounds: "0, or from 1 to 1000000",
	},
	{
		name: "WithFreshness", typ: "time.Duration", def: "1 s", doc: []string{"default of 1 s.", "From 50 ms to 1 min"},
		is: time.Second, get: func(c *config) any { return c.freshness },
		good: []Option{WithFreshness(50 * time.Millisecond), WithFreshness(time.Minute)},
		bad:  []Option{WithFreshness(0), WithFreshness(50*time.Millisecond - 1), WithFreshness(time.Minute + 1)}, values: []string{"0s", "49.999999ms", "1m0.000000001s"}, bounds: "from 50ms to 1m0s",
	},
	{
		name: "WithCoalescing", typ: "time.Duration", def: "0", doc: []string{"default of 0, which writes each one at once", "From 1 ms to 1 s"},
		is: time.Duration(0), get: func(c *config) any { return c.coalescing },
		good: []Option{WithCoalescing(0), WithCoalescing(time.Millisecond), WithCoalescing(time.Second)},
		bad:  []Option{WithCoalescing(-time.Millisecond), WithCoalescing(1), WithCoalescing(time.Second + 1)}, values: []string{"-1ms", "1ns", "1.000000001s"}, bounds: "0, or from 1ms to 1s",
	},
	{
		name: "WithDrainInterval", typ: "time.Duration", def: "250 ms", doc: []string{"default of 250 ms.", "From 1 ms to 1 h"},
		is: 250 * time.Millisecond, get: func(c *config) any { return c.drainInterval },
		good: []Option{WithDrainInterval(time.Millisecond), WithDrainInterval(time.Hour)},
		bad:  []Option{WithDrainInterval(0), WithDrainInterval(-time.Second), WithDrainInterval(time.Hour + 1)}, values: []string{"0s", "-1s", "1h0m0.000000001s"}, bounds: "from 1ms to 1h0m0s",
	},
	{
		name: "WithUnsentLimit", typ: "int", def: "64 KiB", doc: []string{"default of 64 KiB.", "0 leaves it to the kernel", "from 1 KiB to 1 GiB"},
		is: 64 << 10, get: func(c *config) any { return c.unsentLimit },
		good: []Option{WithUnsentLimit(0), WithUnsentLimit(1 << 10), WithUnsentLimit(1 << 30)},
		bad:  []Option{WithUnsentLimit(-1), WithUnsentLimit(1), WithUnsentLimit(1023), WithUnsentLimit(1<<30 + 1)}, values: []string{"-1", "1", "1023", "1073741825"}, bounds: "0, or from 1024 to 1073741824",
	},
	{
		name: "WithAuthorize", typ: "func(*fiber.Ctx, *Subscription) error", def: "everybody", doc: []string{"By default every client is admitted", "A nil function is invalid"},
		is: true, get: func(c *config) any { return c.authorize == nil },
		good: []Option{WithAuthorize(func(*fiber.Ctx, *Subscription) error { return nil })}, bad: []Option{WithAuthorize(nil)}, values: []string{"<nil>"}, bounds: "a function",
	},
	{
		name: "WithOrigins", typ: "...string", def: "same origin", doc: []string{"By default, and always, a page of the same origin may", "An origin is a scheme and a host", "Any other value is invalid"},
		is: []string(nil), get: func(c *config) any { return c.origins },
		good: []Option{WithOrigins(), WithOrigins("*"), WithOrigins("https://app.example.com", "http://localhost:5173", "http://[::1]:3000", "null", "file://")},
		bad: []Option{
			WithOrigins(""), WithOrigins("app.example.com"), WithOrigins("https://app.example.com/"), WithOrigins("https://"), WithOrigins("nil"),
			WithOrigins("https://*.example.com/x"), WithOrigins("https://good.test", "//bad"), WithOrigins("https://u@x.test"),
		},
		values: []string{`""`, `"app.example.com"`, `"https://app.example.com/"`, `"https://"`, `"nil"`, `"https://*.example.com/x"`, `"//bad"`, `"https://u@x.test"`},
		bounds: "a scheme and a host",
	},
	{
		name: "WithMaxClients", typ: "int", def: "0", doc: []string{"default of 0, which is no cap", "Not negative"},
		is: 0, get: func(c *config) any { return c.maxClients },
		good: []Option{WithMaxClients(0), WithMaxClients(1), WithMaxClients(1<<31 - 1)}, bad: []Option{WithMaxClients(-1)}, values: []string{"-1"}, bounds: "0, or from 1 to 2147483647",
	},
	{
		name: "WithMaxClientsPerIP", typ: "int", def: "0", doc: []string{"default of 0, which is no cap", "Not negative"},
		is: 0, get: func(c *config) any { return c.maxClientsPerIP },
		good: []Option{WithMaxClientsPerIP(0), WithMaxClientsPerIP(1)}, bad: []Option{WithMaxClientsPerIP(-1)}, values: []string{"-1"}, bounds: "0, or from 1 to 2147483647",
	},
	{
		name: "WithReadLimit", typ: "int", def: "4 KiB", doc: []string{"default of 4 KiB.", "From 128 bytes to 16 MiB"},
		is: 4 << 10, get: func(c *config) any { return c.readLimit },
		good: []Option{WithReadLimit(128), WithReadLimit(16 << 20)},
		bad:  []Option{WithReadLimit(0), WithReadLimit(127), WithReadLimit(16<<20 + 1)}, values: []string{"0", "127", "16777217"}, bounds: "from 128 to 16777216",
	},
	{
		name: "WithPingInterval", typ: "time.Duration", def: "25 s", doc: []string{"default of 25 s;", "0 turns pings off", "from 10 ms to 24 h"},
		is: 25 * time.Second, get: func(c *config) any { return c.pingInterval },
		good: []Option{WithPingInterval(0), WithPingInterval(10 * time.Millisecond), func(c *config) { WithPingInterval(24 * time.Hour)(c); WithIdleTimeout(0)(c) }},
		bad:  []Option{WithPingInterval(-1), WithPingInterval(9 * time.Millisecond)}, values: []string{"-1ns", "9ms"}, bounds: "0, or from 10ms to 24h0m0s",
	},
	{
		name: "WithIdleTimeout", typ: "time.Duration", def: "60 s", doc: []string{"default of 60 s.", "0 turns the timeout off", "must be longer than the ping interval, and from 10 ms to 24 h"},
		is: 60 * time.Second, get: func(c *config) any { return c.idleTimeout },
		good: []Option{WithIdleTimeout(0), WithIdleTimeout(24 * time.Hour), WithIdleTimeout(25*time.Second + 1)},
		bad:  []Option{WithIdleTimeout(-1), WithIdleTimeout(24*time.Hour + 1)}, values: []string{"-1ns", "24h0m0.000000001s"}, bounds: "0, or from 10ms to 24h0m0s",
	},
	{
		name: "WithShutdownTimeout", typ: "time.Duration", def: "5 s", doc: []string{"default of 5 s:", "From 1 ms to 1 h"},
		is: 5 * time.Second, get: func(c *config) any { return c.shutdownTimeout },
		good: []Option{WithShutdownTimeout(time.Millisecond), WithShutdownTimeout(time.Hour)},
		bad:  []Option{WithShutdownTimeout(0), WithShutdownTimeout(time.Hour + 1)}, values: []string{"0s", "1h0m0.000000001s"}, bounds: "from 1ms to 1h0m0s",
	},
	{
		name: "WithHistory", typ: "int", def: "1,000", doc: []string{"default of 1,000.", "0 turns the history off", "from 1 to 1,000,000 messages"},
		is: 1000, get: func(c *config) any { return c.history },
		good: []Option{WithHistory(0), WithHistory(1), WithHistory(1_000_000)},
		bad:  []Option{WithHistory(-1), WithHistory(1_000_001)}, values: []string{"-1", "1000001"}, bounds: "0, or from 1 to 1000000",
	},
	{
		name: "WithHistoryAge", typ: "time.Duration", def: "2 min", doc: []string{"default of 2 min.", "From 1 s to 24 h"},
		is: 2 * time.Minute, get: func(c *config) any { return c.historyAge },
		good: []Option{WithHistoryAge(time.Second), WithHistoryAge(24 * time.Hour)},
		bad:  []Option{WithHistoryAge(0), WithHistoryAge(time.Second - 1), WithHistoryAge(24*time.Hour + 1)}, values: []string{"0s", "999.999999ms", "24h0m0.000000001s"}, bounds: "from 1s to 24h0m0s",
	},
	{
		name: "WithHistoryBytes", typ: "int", def: "16 MiB", doc: []string{"default of 16 MiB.", "From 1 KiB to 1 GiB"},
		is: 16 << 20, get: func(c *config) any { return c.historyBytes },
		good: []Option{WithHistoryBytes(1 << 10), WithHistoryBytes(1 << 30)},
		bad:  []Option{WithHistoryBytes(0), WithHistoryBytes(1<<10 - 1), WithHistoryBytes(1<<30 + 1)}, values: []string{"0", "1023", "1073741825"}, bounds: "from 1024 to 1073741824",
	},
	{
		name: "WithRelay", typ: "Relay", def: "none", doc: []string{"By default there is none", "A nil relay is invalid"},
		is: Relay(nil), get: func(c *config) any { return c.relay },
		good: []Option{WithRelay(newBus())}, bad: []Option{WithRelay(nil)}, values: []string{"<nil>"}, bounds: "a relay",
	},
	{
		name: "WithHooks", typ: "Hooks", def: "none", doc: []string{"By default there are none"},
		is: true, get: func(c *config) any { return reflect.ValueOf(c.hooks).IsZero() },
		good: []Option{WithHooks(Hooks{})},
	},
	{
		name: "WithLogger", typ: "*slog.Logger", def: "slog.Default()", doc: []string{"default of slog.Default()", "A nil logger is invalid"},
		is: true, get: func(c *config) any { return c.logger == slog.Default() },
		good: []Option{WithLogger(slog.New(slog.DiscardHandler))}, bad: []Option{WithLogger(nil)}, values: []string{"<nil>"}, bounds: "a logger",
	},
}

func TestEveryOptionHasTheDefaultThatItPromises(t *testing.T) {
	c, err := newConfig(nil)
	if err != nil {
		t.Fatalf("newConfig(nil): %v", err)
	}
	for _, row := range optionRows {
		if got := row.get(&c); !reflect.DeepEqual(got, row.is) {
			t.Errorf("%s: got default %v, want %v", row.name, got, row.is)
		}
	}
}

func TestEveryOptionIsCheckedAgainstItsBounds(t *testing.T) {
	for _, row := range optionRows {
		for i, opt := range row.good {
			if _, err := newConfig([]Option{opt}); err != nil {
				t.Errorf("%s, good value %d: got %v, want nil", row.name, i, err)
			}
		}
		for i, opt := range row.bad {
			_, err := NewManager(opt)
			if !errors.Is(err, ErrInvalidOption) {
				t.Errorf("NewManager(%s(%s)): got %v, want ErrInvalidOption", row.name, row.values[i], err)
				continue
			}
			if want := row.name + "(" + row.values[i] + "): must be "; !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), row.bounds) {
				t.Errorf("NewManager(%s(%s)): got %q, want %q and %q in it", row.name, row.values[i], err, want, row.bounds)
			}
		}
	}
}

func TestTheIdleTimeoutMustBeLongerThanThePingInterval(t *testing.T) {
	for _, opts := range [][]Option{
		{WithPingInterval(60 * time.Second)},
		{WithIdleTimeout(25 * time.Second)},
		{WithPingInterval(time.Second), WithIdleTimeout(time.Second)},
		{WithIdleTimeout(time.Second), WithPingInterval(time.Second)}, // in either order
	} {
		if _, err := NewManager(opts...); !errors.Is(err, ErrInvalidOption) || !strings.Contains(err.Error(), "longer than the ping interval") {
			t.Errorf("NewManager: got %v, want ErrInvalidOption that tells the ping interval", err)
		}
	}
	for _, opts := range [][]Option{
		{WithPingInterval(time.Second), WithIdleTimeout(2 * time.Second)},
		{WithPingInterval(0), WithIdleTimeout(10 * time.Millisecond)},
		{WithPingInterval(time.Hour), WithIdleTimeout(0)},
	} {
		if _, err := NewManager(opts...); err != nil {
			t.Errorf("NewManager: got %v, want nil", err)
		}
	}
}

func TestInvalidOptionsAreJoinedOneErrorEach(t *testing.T) {
	_, err := NewManager(WithMaxBuffer(0), WithPath("x"), WithApp(nil), WithOrigins("a", "b"))
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 5 {
		t.Fatalf("NewManager: got %v, want 5 joined errors", err)
	}
	for _, one := range joined.Unwrap() {
		if !errors.Is(one, ErrInvalidOption) {
			t.Errorf("got %v, want ErrInvalidOption", one)
		}
	}
}

func TestNewPanicsWithTheErrorOfNewManager(t *testing.T) {
	_, want := NewManager(WithMaxBuffer(0), WithReadLimit(1))
	defer func() {
		err, ok := recover().(error)
		if !ok || !errors.Is(err, ErrInvalidOption) || err.Error() != want.Error() {
			t.Errorf("New: got panic %v, want %v", err, want)
		}
	}()
	New(WithMaxBuffer(0), WithReadLimit(1))
}

func TestNilOptionsAreSkippedAndLaterOnesWin(t *testing.T) {
	c, err := newConfig([]Option{nil, WithMaxBuffer(0), nil, WithMaxBuffer(7), WithMaxBufferBytes(5), WithMaxBufferBytes(6)})
	if err != nil || c.maxBuffer != 7 || c.maxBufferBytes != 6 {
		t.Errorf("newConfig: got %d, %d, %v, want 7, 6 and nil", c.maxBuffer, c.maxBufferBytes, err)
	}
}

func TestEveryOptionsDocCommentTellsDefaultAndBounds(t *testing.T) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "options.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	pkg, err := doc.NewFromFiles(fset, []*ast.File{file}, "mesherstream")
	if err != nil {
		t.Fatal(err)
	}
	docs := map[string]string{}
	for _, typ := range pkg.Types {
		for _, fn := range typ.Funcs { // go/doc groups them with the type that they return
			if strings.HasPrefix(fn.Name, "With") {
				docs[fn.Name] = strings.Join(strings.Fields(fn.Doc), " ")
			}
		}
	}
	for _, row := range optionRows {
		comment, ok := docs[row.name]
		if !ok {
			t.Errorf("%s: not found in options.go", row.name)
			continue
		}
		delete(docs, row.name)
		for _, want := range row.doc {
			if !strings.Contains(comment, want) {
				t.Errorf("doc of %s: got %q, want %q in it", row.name, comment, want)
			}
		}
	}
	for name := range docs {
		t.Errorf("%s is not in the table of this test", name)
	}
}

func TestTheREADMEsTableAgreesWithTheOptions(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`With\w+`)
	rows := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.ReplaceAll(strings.TrimSpace(cells[i]), "`", "")
		}
		if option := name.FindString(cells[0]); option != "" && len(cells) == 4 && strings.HasPrefix(cells[0], option) {
			rows[option] = cells
		}
	}
	for _, row := range optionRows {
		cells := rows[row.name]
		delete(rows, row.name)
		if cells == nil {
			t.Errorf("README: got no row of four cells for %s", row.name)
			continue
		}
		if got, want := cells[1:3], []string{row.typ, row.def}; !slices.Equal(got, want) {
			t.Errorf("README: %s: got type and default %q, want %q", row.name, got, want)
		}
		if cells[3] == "" {
			t.Errorf("README: %s has no description", row.name)
		}
	}
	for option := range rows {
		t.Errorf("README: %s is no option", option)
	}
}
