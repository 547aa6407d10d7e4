// Package e2e_test runs weft as users do: the managed plugin on real engines.
package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/weft-net/weft/test/lab"
)

// engines are the versions that every story is told on.
func engines() []string {
	if only := os.Getenv("WEFT_E2E_ENGINE"); only != "" {
		return strings.Split(only, ",")
	}
	return lab.Engines()
}

// storyEngines are those of stories that have a host, or two, of each engine.
// WEFT_E2E_WITHOUT leaves some out, which then have a part in clusters of all engines only.
func storyEngines() []string {
	without := strings.Split(os.Getenv("WEFT_E2E_WITHOUT"), ",")
	return slices.DeleteFunc(engines(), func(e string) bool { return slices.Contains(without, e) })
}

const plugin = "weft:latest"

// pluginDir is where `make plugin` leaves the plugin.
func pluginDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../../build/plugin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "config.json")); err != nil {
		t.Fatalf("the plugin is not built: run `make plugin` (%v)", err)
	}
	return dir
}

// site is one host with weft, and the machine outside.
type site struct {
	testing.TB
	*lab.Host
	lab    *lab.Lab
	out    *lab.Host
	engine string
	shared string // folder of the machine that the host sees as /shared; see TestUp
}

// options of a site.
type siteConfig struct {
	host     lab.HostConfig
	settings []string
	noPlugin bool
}

// newSite starts a host with the engine and the plugin.
func newSite(t testing.TB, engine string, change ...func(*siteConfig)) *site {
	t.Helper()
	cfg := siteConfig{host: lab.HostConfig{Name: "h1", Engine: engine, Light: true}}
	for _, c := range change {
		c(&cfg)
	}
	if !cfg.noPlugin {
		cfg.host.Plugin = pluginDir(t)
	}
	l := lab.New(t, lab.Config{Hosts: []lab.HostConfig{cfg.host}})
	s := &site{TB: t, Host: l.Hosts[0], lab: l, out: l.Outside, engine: engine}
	t.Cleanup(func() {
		if t.Failed() {
			log, err := s.PluginLog(context.Background())
			t.Logf("log of the plugin (%v):\n%s", err, tail(log, 60))
		}
	})
	if !cfg.noPlugin {
		if err := s.install(cfg.settings...); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func goarch(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOARCH").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// eachEngine tells a story on every engine, each on a site of its own.
func eachEngine(t *testing.T, story func(s *site), change ...func(*siteConfig)) {
	t.Helper()
	for _, e := range storyEngines() {
		t.Run(e, func(t *testing.T) {
			t.Parallel()
			story(newSite(t, e, change...))
		})
	}
}

// on is the same site for a subtest.
func (s *site) on(t testing.TB) *site {
	c := *s
	c.TB = t
	return &c
}

// docker is a docker command, see command; a failure ends the test.
func (s *site) docker(args ...string) string {
	s.Helper()
	out, err := s.command(args...)
	if err != nil {
		s.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// refuse runs a docker command that must fail with these words.
func (s *site) refuse(words []string, args ...string) {
	s.Helper()
	out, err := s.Docker(s.Context(), args...)
	if err == nil {
		s.Fatalf("docker %s succeeded: %s", strings.Join(args, " "), out)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			s.Errorf("docker %s: the error lacks %q:\n%v", strings.Join(args, " "), w, err)
		}
	}
}

// sh runs a shell command on the host.
func (s *site) sh(command string) string {
	s.Helper()
	out, err := s.Run(s.Context(), "sh", "-c", command)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// run starts a container that sleeps.
func (s *site) run(name string, args ...string) string {
	s.Helper()
	return s.docker(append(append([]string{"run", "-d", "--name", name}, args...), lab.Image, "sleep", "infinity")...)
}

// server starts a container that answers its name and the client's address on
// TCP port 80 and, with the same words, on UDP port 81.
func (s *site) server(name string, args ...string) string {
	s.Helper()
	script := `for f in 4 6; do
  socat UDP$f-RECVFROM:81,fork,reuseaddr$v6 SYSTEM:'echo ` + name + ` from $SOCAT_PEERADDR' &
  socat TCP$f-LISTEN:80,fork,reuseaddr$v6 SYSTEM:'echo ` + name + ` from $SOCAT_PEERADDR' &
  v6=,ipv6only=1
done; wait`
	id := s.docker(append(append([]string{"run", "-d", "--name", name}, args...), lab.Image, "sh", "-c", script)...)
	return id
}

// in runs a command in a container.
func (s *site) in(container string, args ...string) (string, error) {
	return s.Docker(s.Context(), append([]string{"exec", container}, args...)...)
}

// asker runs a command somewhere: the host, the outside, a container.
type asker func(args ...string) (string, error)

func (s *site) fromHost() asker {
	return func(args ...string) (string, error) { return s.Run(s.Context(), args...) }
}

func (s *site) fromOutside() asker {
	return func(args ...string) (string, error) { return s.out.Run(s.Context(), args...) }
}

// from asks in a container as it is at that moment; see inside for many questions.
func (s *site) from(container string) asker {
	return func(args ...string) (string, error) { return s.inside(container)(args...) }
}

// get asks a TCP server; the answer is one line.
func get(from asker, address string) (string, error) {
	return from("timeout", "3", "socat", "-T2", "-", "TCP:"+address+",connect-timeout=2,shut-none")
}

// getUDP asks a UDP server.
func getUDP(from asker, address string) (string, error) {
	out, err := from("sh", "-c", "echo | timeout 2 socat -T1 - UDP:"+address)
	if err == nil && out == "" {
		err = fmt.Errorf("no answer from udp %s", address)
	}
	return out, err
}

// answers waits until the server at the address answers with the words.
func (s *site) answers(from asker, address, words string) {
	s.Helper()
	s.eventually("answer from "+address, func() error {
		out, err := get(from, address)
		if err == nil && !strings.Contains(out, words) {
			err = fmt.Errorf("answer %q lacks %q", out, words)
		}
		return err
	})
}

// silent makes sure that nobody answers.
func (s *site) silent(from asker, address string) {
	s.Helper()
	if out, err := get(from, address); err == nil && out != "" {
		s.Errorf("%s answered: %s", address, out)
	}
}

// eventually repeats until it succeeds, for ten seconds.
func (s *site) eventually(what string, try func() error) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 10*time.Second)
	defer cancel()
	if err := lab.Until(ctx, what, func(context.Context) error { return try() }); err != nil {
		s.Fatal(err)
	}
}

// pings makes sure that one ping gets through.
func (s *site) pings(from asker, target string) {
	s.Helper()
	if out, err := from("ping", "-c1", "-W3", target); err != nil {
		s.Errorf("ping %s: %v %s", target, err, out)
	}
}

// noPing makes sure that none does.
func (s *site) noPing(from asker, target string) {
	s.Helper()
	if _, err := from("ping", "-c1", "-W1", target); err == nil {
		s.Errorf("ping %s got through", target)
	}
}

// ip is a container's address on a network.
func (s *site) ip(container, network string) string {
	s.Helper()
	return s.inspect(container, fmt.Sprintf(`{{(index .NetworkSettings.Networks %q).IPAddress}}`, network))
}

func (s *site) ip6(container, network string) string {
	s.Helper()
	return s.inspect(container, fmt.Sprintf(`{{(index .NetworkSettings.Networks %q).GlobalIPv6Address}}`, network))
}

// inspect is `docker inspect -f format` of a container. It asks the engine itself: the
// tests do this all the time, and the command costs a tenth of a second.
func (s *site) inspect(container, format string) string {
	s.Helper()
	api := s.api()
	defer api.CloseIdleConnections()
	text, err := api.Call(s.Context(), http.MethodGet, "/containers/"+container+"/json", nil)
	s.must(err)
	var doc any
	values := json.NewDecoder(strings.NewReader(text))
	values.UseNumber()
	s.must(values.Decode(&doc))
	shape, err := template.New(container).Option("missingkey=error").Parse(format)
	s.must(err)
	var out strings.Builder
	s.must(shape.Execute(&out, doc))
	return out.String()
}

// network creates a weft network; the engine's own IPAM chooses addresses
// unless args say otherwise.
func (s *site) network(name string, args ...string) {
	s.Helper()
	s.docker(append(append([]string{"network", "create", "-d", plugin}, args...), name)...)
}

// weft asks the operator's command for JSON.
func weftJSON[T any](s *site, command string) T {
	s.Helper()
	out, err := s.Run(s.Context(), "weft", command, "--json")
	if err != nil {
		s.Fatal(err)
	}
	var v T
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		s.Fatalf("weft %s --json: %v\n%s", command, err, out)
	}
	return v
}

// atLeast says whether the site's engine has this major version.
func (s *site) atLeast(major int) bool {
	var have int
	if _, err := fmt.Sscanf(s.engine, "%d.", &have); err != nil {
		s.Fatalf("engine version %q: %v", s.engine, err)
	}
	return have >= major
}

// hostState is what must be as before when everything of weft's is gone.
// docker_gwbridge is the engine's own and stays, with an empty table raw. The policy of
// IPv6 stays with forwarding.
func (s *site) hostState() string {
	s.Helper()
	state := s.sh(`ip -o link | sed 's/^[0-9]*: //; s/@.*//; s/:.*//' | grep -v -e docker_gwbridge -e '^veth' | sort
ip -o addr | awk '{print $2, $3, $4}' | grep -v -e docker_gwbridge -e ' fe80' -e '^veth' | sort
nft list ruleset 2>/dev/null | grep -v -e '^#' | sed -E 's/counter packets [0-9]+ bytes [0-9]+/counter/' | grep -v docker_gwbridge |
	awk '/^table/ { v6 = $2 == "ip6" } v6 && /hook forward/ { sub("policy (accept|drop)", "policy of IPv6") } { print }'
iptables-save 2>/dev/null | grep -v -e '^#' -e docker_gwbridge | sed -E 's/ \[[0-9]+:[0-9]+\]//'
ip6tables-save 2>/dev/null | grep -v -e '^#' -e docker_gwbridge | sed -E 's/ \[[0-9]+:[0-9]+\]//; s/^:FORWARD .*/:FORWARD of IPv6/'`)
	for _, empty := range []string{
		"table ip raw {\n\tchain PREROUTING {\n\t\ttype filter hook prerouting priority raw; policy accept;\n\t}\n}\n",
		"*raw\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n",
	} {
		state = strings.ReplaceAll(state, empty, "")
	}
	return state
}
