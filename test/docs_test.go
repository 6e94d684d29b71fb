package test

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// A repository holds the things that the documents mention: its files, and the declarations in its Go files.
type repository struct {
	files    map[string]bool     // by path
	folders  map[string]bool     // by path, "." included
	source   map[string]string   // the Go code of each folder
	headings map[string][]string // of each document, as anchors
}

func readRepository(t *testing.T) *repository {
	t.Helper()
	r := &repository{files: map[string]bool{}, folders: map[string]bool{}, source: map[string]string{}, headings: map[string][]string{}}
	root := os.DirFS("..")
	if _, err := fs.Stat(root, "e2e"); err != nil {
		t.Skip("only this module is here, and the documents speak of the others too: ", err)
	}
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (name == ".git" || entry.Name() == "node_modules"):
			return fs.SkipDir
		case entry.IsDir():
			r.folders[name] = true
			return nil
		}
		r.files[name] = true
		if ext := path.Ext(name); ext == ".go" || ext == ".md" {
			text, err := fs.ReadFile(root, name)
			if err != nil {
				return err
			}
			if ext == ".go" {
				r.source[path.Dir(name)] += string(text)
			} else {
				r.headings[name] = anchors(string(text))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// documents are those that users read.
func (r *repository) documents() (list []string) {
	for name := range r.headings {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

var heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)

// anchors returns the anchors that a link may name after its #, as GitHub makes them from headings.
func anchors(text string) (list []string) {
	for _, match := range heading.FindAllStringSubmatch(text, -1) {
		var anchor strings.Builder
		for _, c := range strings.ToLower(match[1]) {
			switch {
			case c == ' ':
				anchor.WriteByte('-')
			case c == '-', c == '_', unicode.IsLetter(c), unicode.IsDigit(c):
				anchor.WriteRune(c)
			}
		}
		list = append(list, anchor.String())
	}
	return list
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)|(?:src|srcset|href)="([^"]+)"`)

func TestEveryLinkOfTheDocumentsLeadsSomewhere(t *testing.T) {
	r := readRepository(t)
	links := 0
	for _, doc := range r.documents() {
		for _, match := range link.FindAllStringSubmatch(read(t, doc), -1) {
			target := match[1] + match[2]
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			links++
			file, anchor, _ := strings.Cut(target, "#")
			name := doc
			if file != "" {
				name = path.Join(path.Dir(doc), file)
			}
			switch {
			case !r.files[name] && !r.folders[name]:
				t.Errorf("%s: %s leads nowhere", doc, target)
			case anchor != "" && !slices.Contains(r.headings[name], anchor):
				t.Errorf("%s: %s names a heading that %s doesn't have", doc, target, name)
			}
		}
	}
	if links < 20 {
		t.Errorf("found only %d links", links)
	}
}

var testName = regexp.MustCompile("`((?:Test|Fuzz|Benchmark|Example)[A-Z]\\w+)`")

func TestEveryTestThatTheDocumentsNameExists(t *testing.T) {
	r := readRepository(t)
	var all strings.Builder
	for _, source := range r.source {
		all.WriteString(source)
	}
	names := 0
	for _, doc := range r.documents() {
		for _, match := range testName.FindAllStringSubmatch(read(t, doc), -1) {
			names++
			if !strings.Contains(all.String(), "func "+match[1]+"(") {
				t.Errorf("%s names %s, and there is no such test", doc, match[1])
			}
		}
	}
	if names < 20 {
		t.Errorf("found only %d names", names)
	}
}

var fileName = regexp.MustCompile("`([A-Za-z0-9_./-]+\\.(?:go|md|js|ts|json|svg|html|yml))`")

func TestEveryFileThatTheDocumentsNameExists(t *testing.T) {
	r := readRepository(t)
	names := 0
	for _, doc := range r.documents() {
		for _, match := range fileName.FindAllStringSubmatch(read(t, doc), -1) {
			names++
			here := strings.TrimPrefix(match[1], "./")
			known := false
			for name := range r.files {
				known = known || name == here || strings.HasSuffix(name, "/"+here)
			}
			if !known && !r.made(here) {
				t.Errorf("%s names %s, and there is no such file", doc, match[1])
			}
		}
	}
	if names == 0 {
		t.Errorf("found only %d names", names)
	}
}

// made reports whether a file is one that a command writes.
func (r *repository) made(name string) bool {
	return slices.Contains([]string{"results.md", "results.json", "results.svg"}, name)
}

var command = regexp.MustCompile("`((?:go (?:test|run)|make) [^`]+)`|(?m)^(?:    |\t|#+ `?)((?:go (?:test|run)|make) [^`\n]+)")

func TestEveryCommandOfTheDocumentsCanBeRun(t *testing.T) {
	r := readRepository(t)
	targets := regexp.MustCompile(`(?m)^([a-z]+):`).FindAllStringSubmatch(read(t, "Makefile"), -1)
	commands := 0
	for _, doc := range r.documents() {
		for _, match := range command.FindAllStringSubmatch(read(t, doc), -1) {
			commands++
			line := match[1] + match[2]
			words := split(line)
			switch {
			case words[0] == "make":
				if !slices.ContainsFunc(targets, func(m []string) bool { return m[1] == words[1] }) {
					t.Errorf("%s: `%s`: the Makefile has no such target", doc, line)
				}
			case words[1] == "run":
				r.checkRun(t, doc, line, words[2:])
			default:
				r.checkTest(t, doc, line, words[2:])
			}
		}
	}
	if commands < 20 {
		t.Errorf("found only %d commands", commands)
	}
}

// split returns the words of a command as a shell splits them, up to a pipe or a comment. In a table, a pipe is written
// as \|.
func split(line string) (words []string) {
	line = strings.ReplaceAll(line, `\|`, "\x00")
	var word strings.Builder
	quoted, any := false, false
	for _, c := range line + " " {
		switch {
		case c == '\'' || c == '"':
			quoted, any = !quoted, true
		case !quoted && unicode.IsSpace(c):
			if any || word.Len() > 0 {
				words = append(words, strings.ReplaceAll(word.String(), "\x00", "|"))
			}
			word.Reset()
			any = false
		default:
			word.WriteRune(c)
		}
	}
	for i, w := range words {
		if w == "|" || w == "#" || w == "…" || w == "&&" {
			return words[:i]
		}
	}
	return words
}

// folder returns the folder of a package that a command names, relative to the root or to the document's own folder.
func (r *repository) folder(doc, pkg string) string {
	for _, name := range []string{path.Clean(pkg), path.Join(path.Dir(doc), pkg)} {
		if r.source[name] != "" {
			return name
		}
	}
	return ""
}

func (r *repository) checkRun(t *testing.T, doc, line string, words []string) {
	t.Helper()
	for i, w := range words {
		if !strings.HasPrefix(w, ".") {
			continue
		}
		dir := r.folder(doc, w)
		if dir == "" || !strings.Contains(r.source[dir], "func main()") {
			t.Errorf("%s: `%s`: there is no program in %s", doc, line, w)
			return
		}
		for _, flag := range words[i+1:] {
			if name, _, _ := strings.Cut(strings.TrimLeft(flag, "-"), "="); strings.HasPrefix(flag, "-") && name != "h" && !definesFlag(r.source[dir], name) {
				t.Errorf("%s: `%s`: %s has no flag %s", doc, line, w, flag)
			}
		}
		return
	}
}

func definesFlag(source, name string) bool {
	return regexp.MustCompile(`\b\w+\.(?:Bool|Int|String|Duration|Float64|Func|Var|TextVar)(?:Var)?\((?:[^,()]+, )?"` + regexp.QuoteMeta(name) + `"`).MatchString(source)
}

// Flags of go test itself, and whether a value follows.
var testFlags = map[string]bool{
	"run": true, "bench": true, "fuzz": true, "fuzztime": true, "timeout": true, "count": true, "outputdir": true, "coverpkg": true,
	"tags": true, "benchtime": true, "cpu": true, "parallel": true, "list": true, "skip": true,
	"v": false, "race": false, "short": false, "artifacts": false, "json": false, "cover": false, "shuffle": false, "benchmem": false,
}

func (r *repository) checkTest(t *testing.T, doc, line string, words []string) {
	t.Helper()
	var folders, own []string
	patterns := map[string]string{}
	for i := 0; i < len(words); i++ {
		w := words[i]
		name, value, joined := strings.Cut(strings.TrimPrefix(w, "-"), "=")
		switch takesValue, known := testFlags[name]; {
		case w == "work":
			folders = append(folders, "./...")
		case strings.HasPrefix(w, "."):
			folders = append(folders, w)
		case !strings.HasPrefix(w, "-"): // the value of a flag of our own
		case !known:
			own = append(own, name)
		case takesValue && !joined && i+1 < len(words):
			i++
			value = words[i]
			fallthrough
		default:
			patterns[name] = value
		}
	}
	if len(folders) == 0 {
		folders = []string{"."}
	}
	var source strings.Builder
	for _, pkg := range folders {
		base, all := strings.CutSuffix(pkg, "/...")
		dir := r.folder(doc, base)
		if dir == "" {
			t.Errorf("%s: `%s`: there is no package in %s", doc, line, pkg)
			return
		}
		for name, code := range r.source {
			if name == dir || all && (dir == "." || strings.HasPrefix(name, dir+"/")) {
				source.WriteString(code)
			}
		}
	}
	for _, flag := range own {
		if !definesFlag(source.String(), flag) && !strings.Contains(source.String(), "internal/streamtest\"") {
			t.Errorf("%s: `%s`: no test there defines -%s", doc, line, flag)
		}
	}
	for flag, kinds := range map[string]string{"run": "Test|Fuzz|Example", "bench": "Benchmark", "fuzz": "Fuzz"} {
		pattern, given := patterns[flag]
		if !given || pattern == "^$" {
			continue
		}
		first, _, _ := strings.Cut(pattern, "/")
		matcher, err := regexp.Compile(first)
		if err != nil {
			t.Errorf("%s: `%s`: %v", doc, line, err)
			continue
		}
		found := false
		for _, match := range regexp.MustCompile(`(?m)^func ((?:`+kinds+`)\w*)\(`).FindAllStringSubmatch(source.String(), -1) {
			found = found || matcher.MatchString(match[1])
		}
		if !found {
			t.Errorf("%s: `%s`: -%s matches nothing in %v", doc, line, flag, folders)
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
