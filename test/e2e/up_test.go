package e2e_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestUp types `make up` and `make down` on a machine with Go and nothing else.
// What the machine would download of Go it finds in caches: the hosts of the lab
// have no way to the Internet.
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
	shared := t.TempDir()
	binds["/shared"] = shared
	s := newSite(t, "26.1.5", func(c *siteConfig) { c.noPlugin, c.host.Binds = true, binds }) // Debian stable
	s.shared = shared
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
	ctx, cancel := context.WithTimeout(s.Context(), 8*time.Minute) // it may compile, and install an engine
	defer cancel()
	out, err := s.Run(ctx, "env", "-C", "/src/weft", "PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin",
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

// upInstalls takes the engine off the host first. The host reaches Debian's
// mirror, and nothing else, through a relay of the machine.
func (s *site) upInstalls() {
	engine := "docker.io docker-cli containerd runc"
	s.sh("DEBIAN_FRONTEND=noninteractive apt-get purge -y -qq " + engine + " && ! command -v dockerd")
	s.relay("deb.debian.org")
	s.up()
	s.down()
	if out := s.sh("command -v dockerd docker; pgrep -x dockerd; true"); out != "" {
		s.Errorf("make down left the engine that make up installed:\n%s", out)
	}
}

// relay lets the host reach port 80 of one machine of the Internet: a socket in
// a folder that both share.
func (s *site) relay(name string) {
	s.Helper()
	l, err := net.Listen("unix", filepath.Join(s.shared, "relay"))
	s.must(err)
	s.Cleanup(func() { _ = l.Close() }) // ends the relay
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer client.Close()
				server, err := net.Dial("tcp", name+":80")
				if err != nil {
					return // apt sees the end and tries again
				}
				defer server.Close()
				go func() { _, _ = io.Copy(server, client) }()
				_, _ = io.Copy(client, server)
			}()
		}
	}()
	s.sh("echo 127.0.0.1 " + name + " >>/etc/hosts")
	_, err = s.Background("socat", "TCP-LISTEN:80,bind=127.0.0.1,fork,reuseaddr", "UNIX-CONNECT:/shared/relay")
	s.must(err)
}
