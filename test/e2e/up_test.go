package e2e_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weft-net/weft/test/lab"
)

// TestUp types `make up` and `make down` on a machine with Go and nothing else.
// What the machine would download it finds in caches: the hosts of the lab have
// no way to the Internet.
func TestUp(t *testing.T) {
	t.Parallel()
	binds := map[string]string{"/usr/bin/make": "/usr/bin/make", "/var/cache/weft-build": "/var/cache/weft-build"}
	for path, variable := range map[string]string{"/usr/local/go": "GOROOT", "/root/go/pkg/mod": "GOMODCACHE", "/root/.cache/go-build": "GOCACHE"} {
		out, err := exec.Command("go", "env", variable).Output()
		if err != nil {
			t.Fatal(err)
		}
		binds[path] = strings.TrimSpace(string(out))
	}
	s := newSite(t, lab.DefaultEngine, func(c *siteConfig) { c.noPlugin, c.host.Binds = true, binds })
	s.checkout("/src/weft")
	before := s.hostState()
	s.step("the engine runs", func(s *site) {
		s.up()
		s.up() // on top of the first
		s.down()
		s.quick("version")
		s.eventually("the host as before", func() error { return same(before, s.hostState()) })
	})
	s.step("the engine is installed", func(s *site) {
		s.must(s.StopEngine(s.Context()))
		s.up()
		s.down()
		s.eventually("the end of the engine that make up started", func() error {
			if out := s.sh("pgrep -x dockerd || :"); out != "" {
				return fmt.Errorf("dockerd runs: %s", out)
			}
			return nil
		})
	})
	s.step("no engine is installed", (*site).upInstalls)
}

// checkout copies what git has of the working tree into the host.
func (s *site) checkout(dst string) {
	s.Helper()
	dir, ok := s.TB.(*testing.T)
	if !ok {
		s.Fatal("a benchmark has no directory")
	}
	src := filepath.Join(dir.TempDir(), "weft")
	s.must(os.Mkdir(src, 0o755))
	const script = `cd ../.. && git ls-files -z | tar --null -T - --ignore-failed-read -c | tar -x -C "$0"`
	if out, err := exec.Command("bash", "-c", script, src).CombinedOutput(); err != nil {
		s.Fatalf("copy the working tree: %v\n%s", err, out)
	}
	s.MustRun(s, "mkdir", "-p", filepath.Dir(dst))
	s.must(s.CopyIn(s.Context(), src, dst))
}

// make runs make in the copy.
func (s *site) make(target string) string {
	s.Helper()
	out, err := s.Run(s.Context(), "env", "-C", "/src/weft", "PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"GOPROXY=off", "GOTOOLCHAIN=local", "make", target)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// up makes sure of what `make up` promises.
func (s *site) up() {
	s.Helper()
	out := s.make("up")
	for _, words := range []string{"reaches the other by name", "published port answers", "weft-demo-web", "make down"} {
		if !strings.Contains(out, words) {
			s.Errorf("make up does not say %q:\n%s", words, out)
		}
	}
	if _, err := s.out.Run(s.Context(), "curl", "-sSf", "-m5", fmt.Sprintf("http://%s:18080/", s.IPv4)); err != nil {
		s.Errorf("the published port from outside: %v", err)
	}
	if out := s.docker("plugin", "ls"); !strings.Contains(out, plugin) || !strings.Contains(out, "true") {
		s.Errorf("docker plugin ls: %s", out)
	}
	if n := weftJSON[[]any](s, "networks"); len(n) != 1 {
		s.Errorf("weft networks: %s", asText(n))
	}
}

func (s *site) down() {
	s.Helper()
	s.make("down")
	left := s.sh(`ls -d /usr/local/bin/weft /var/lib/weft /var/lib/weft-demo 2>/dev/null || :
if docker version >/dev/null 2>&1; then docker plugin ls -q; docker ps -aq; docker network ls -q -f driver=weft:latest; docker images -q weft-demo; fi`)
	if left != "" {
		s.Errorf("make down left:\n%s", left)
	}
	s.nothingOfWeft()
}

// upInstalls runs the scripts with stubs in the place of everything that they
// call: the step that installs the engine needs the Internet.
func (s *site) upInstalls() {
	const stubs = `
mkdir -p /stub/bin && cd /stub/bin
for tool in bash sh cat cp mkdir rm seq nohup id dirname tail tar touch chmod env; do ln -sf "$(command -v $tool)" $tool; done
stub() { { echo '#!/bin/bash'; echo 'echo "${0##*/} $*" >>/stub/log'; cat; } >$1; chmod +x $1; }
stub docker <<'S'
case "$1 $2" in
"version ") [ -e /stub/started ] ;;
"plugin inspect" | "network inspect" | "image inspect" | "inspect "*) exit 1 ;;
"import "*) cat >/dev/null ;;
esac
S
stub apt-get <<'S'
[ "$1" != install ] || cp /stub/dockerd /stub/bin/dockerd
[ "$1" != remove ] || rm /stub/bin/dockerd
S
stub apt-cache </dev/null
stub install </dev/null
stub make </dev/null
stub go <<'S'
[ "$1" != env ] || echo amd64
[ "$1" != build ] || { printf '#!/bin/bash\necho hello\n' >build/demo/demo; chmod +x build/demo/demo; }
S
stub dockerd <<'S'
touch /stub/started
while [ -e /stub/started ]; do read -rt 1 <> <(:); done
S
mv dockerd ..`
	s.sh(stubs)
	run := func(script string) string {
		s.Helper()
		out, err := s.Run(s.Context(), "/usr/bin/env", "PATH=/stub/bin", "bash", "/src/weft/packaging/"+script)
		if err != nil {
			s.Fatal(err)
		}
		return out + "\n" + s.sh("cat /stub/log; rm /stub/log")
	}
	inOrder := func(text string, words ...string) {
		s.Helper()
		rest := text
		for _, w := range words {
			_, after, ok := strings.Cut(rest, w)
			if !ok {
				s.Fatalf("%q is missing, or not in its place:\n%s", w, text)
			}
			rest = after
		}
	}
	inOrder(run("up.sh"), "installing Debian's docker.io", "starting the engine", "building the plugin", "weft works",
		"apt-get update", "apt-get install -y", "docker.io iptables docker-cli", "dockerd", "make -s plugin",
		"docker plugin create weft:latest build/plugin", "docker plugin enable weft:latest", "docker network create -d weft:latest weft-demo")
	out := run("down.sh")
	inOrder(out, "apt-get remove -y", "docker.io iptables docker-cli")
	if left, err := s.Run(context.WithoutCancel(s.Context()), "sh", "-c", "pgrep -x dockerd; ls /stub/bin/dockerd"); err == nil || left != "" {
		s.Errorf("the engine that make up installed is left: %s\n%s", left, out)
	}
}
