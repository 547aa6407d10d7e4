//go:build bench

package names

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// TestEngineProcess is the engine's resolver in a process of its own; it prints its port.
func TestEngineProcess(t *testing.T) {
	path := os.Getenv("WEFT_TEST_ENGINE")
	if path == "" {
		t.Skip("it is started by the benchmark")
	}
	h := openKernel(t)
	sandbox, err := h.OpenSandbox(path)
	if err != nil {
		t.Fatal(err)
	}
	e := startEngine(t, sandbox)
	_, _ = os.Stdout.WriteString(strconv.Itoa(e.port) + "\n")
	select {}
}

// engineSite is a namespace whose engine is another process.
func engineSite(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "netns")
	mountNamespace(t, path)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestEngineProcess$")
	cmd.Env = append(os.Environ(), "WEFT_TEST_ENGINE="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
	var port int
	if _, err := fmt.Fscan(out, &port); err != nil {
		t.Fatal(err)
	}
	run(t, path, strings.ReplaceAll(ways()["legacy"], "PORT", strconv.Itoa(port)))
	return path
}

// asker asks like a libc: a new socket for each question, plain system calls, in a
// thread that stays in the namespace.
func asker(t *testing.T, path string) (ask func(message []byte) (time.Duration, int)) {
	t.Helper()
	work, done := make(chan []byte), make(chan time.Duration)
	size := 0
	ready := make(chan error)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open(path, unix.O_RDONLY, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
		}
		ready <- err
		buf := make([]byte, 4096)
		for message := range work {
			at := time.Now()
			s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
			if err == nil {
				err = unix.Connect(s, &unix.SockaddrInet4{Port: 53, Addr: [4]byte{127, 0, 0, 11}})
			}
			if err == nil {
				_, err = unix.Write(s, message)
			}
			if err == nil {
				size, err = unix.Read(s, buf)
			}
			took := time.Since(at)
			if err != nil {
				size = 0
			}
			_ = unix.Close(s)
			done <- took
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(work) })
	return func(message []byte) (time.Duration, int) {
		work <- message
		return <-done, size
	}
}

// TestLatency compares, in one interleaved run, what a local name costs with the engine
// alone (twice, as a control), a name of weft's, and a name that weft passes on.
func TestLatency(t *testing.T) {
	weft, alone, control := engineSite(t), engineSite(t), engineSite(t)
	startProcess(t, false, weft)
	redis, local := ask(t, "redis.", dnsmessage.TypeA, 0), ask(t, "local.", dnsmessage.TypeA, 0)
	inWeft := asker(t, weft)
	runs := []struct {
		name    string
		ask     func([]byte) (time.Duration, int)
		message []byte
		took    []time.Duration
	}{
		{name: "engine alone", ask: asker(t, alone), message: local},
		{name: "engine alone, control", ask: asker(t, control), message: local},
		{name: "a name of weft's", ask: inWeft, message: redis},
		{name: "passed on", ask: inWeft, message: local},
	}
	eventually(t, 10*time.Second, func() error {
		if _, n := inWeft(redis); n <= len(redis) {
			return fmt.Errorf("redis is not answered")
		}
		return nil
	})
	strays := 0
	for i := range 6000 {
		for j := range runs {
			r := &runs[(i+j)%len(runs)]
			took, n := r.ask(r.message)
			if n <= len(r.message) { // a flow from before weft came, as its port was used again
				if strays++; strays > 100 {
					t.Fatalf("%s: a reply of %d octets, once more", r.name, n)
				}
				continue
			}
			if i >= 500 {
				r.took = append(r.took, took)
			}
		}
	}
	p := func(r int, percent int) time.Duration {
		slices.Sort(runs[r].took)
		return runs[r].took[len(runs[r].took)*percent/100]
	}
	for i, r := range runs {
		t.Logf("%-22s p50 %6.1f µs  p90 %6.1f µs  p99 %6.1f µs  p50 ratio %.2f", r.name, us(p(i, 50)), us(p(i, 90)), us(p(i, 99)),
			us(p(i, 50))/us(p(0, 50)))
	}
	if ratio := us(p(2, 50)) / us(p(0, 50)); ratio > 1.15 {
		t.Errorf("a name of weft's takes %.2f of the engine's time, want 1.15 at most", ratio)
	}
	if more := us(p(3, 50)) - us(p(0, 50)); more > 100 {
		t.Errorf("passing on takes %.0f µs more, want 100 at most", more)
	}
}

func us(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// TestIdle measures a process that serves 500 sandboxes, against one that serves none.
func TestIdle(t *testing.T) {
	const many = 500
	dir := t.TempDir()
	var paths []string
	for i := range many {
		paths = append(paths, filepath.Join(dir, strconv.Itoa(i)))
		mountNamespace(t, paths[i])
	}
	for _, timed := range []bool{false, true} {
		t.Run(fmt.Sprintf("timed=%v", timed), func(t *testing.T) {
			empty, _ := startProcess(t, timed)
			none, _ := usage(t, empty, 0)
			started := time.Now()
			pid, _ := startProcess(t, timed, paths...)
			eventually(t, 60*time.Second, func() error {
				if n := descriptors(t, pid); n < 3*many {
					return fmt.Errorf("%d descriptors", n)
				}
				return nil
			})
			t.Logf("%d sandboxes are served %v after the start", many, time.Since(started))
			memory, cpu := usage(t, pid, 20*time.Second)
			t.Logf("%.1f MB more than with none (%.1f MB), %.2f %% of a core", memory-none, none, 100*cpu)
			if memory-none > 25 {
				t.Errorf("%.1f MB more, want 25 at most", memory-none)
			}
			if cpu > 0.01 {
				t.Errorf("%.2f %% of a core, want 1 at most", 100*cpu)
			}
		})
	}
}

func descriptors(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// usage is the resident memory in MB and the share of a core over the time.
func usage(t *testing.T, pid int, over time.Duration) (memory, cpu float64) {
	t.Helper()
	time.Sleep(3 * time.Second) // what a start leaves is done with
	ticks := func() float64 {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')'):]))
		user, _ := strconv.ParseFloat(f[12], 64)
		system, _ := strconv.ParseFloat(f[13], 64)
		return user + system
	}
	before := ticks()
	time.Sleep(over)
	used := ticks() - before
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[0] == "VmRSS:" {
			kb, _ := strconv.ParseFloat(f[1], 64)
			memory = kb / 1024
		}
	}
	if over > 0 {
		cpu = used / 100 / over.Seconds()
	}
	return memory, cpu
}
