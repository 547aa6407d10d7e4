//go:build bench

package ipam_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/internal/store/storetest"
	"github.com/weft-net/weft/internal/testmain"
)

// onDisk marks the process whose etcd has its data on the disk.
const onDisk = "WEFT_BENCH_ON_DISK"

// TestMain gives the tests a directory of the disk in the place of /dev/shm, where
// storetest has the data of etcd, and a network namespace of their own, with nothing
// but a loopback. On the disk, what etcd promises costs what it costs elsewhere, and
// no less than what the journals promise.
func TestMain(m *testing.M) {
	if os.Getenv(onDisk) != "" {
		os.Exit(storetest.Main(m))
	}
	testmain.SweepDead(dirs + "/ipam-")
	os.Exit(againOnDisk())
}

func againOnDisk() int {
	dir := fmt.Sprintf("%s/ipam-%d-etcd", dirs, os.Getpid())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	const script = `mount --make-rprivate / && mount --bind "$0" /dev/shm && exec "$@"`
	return testmain.Again(onDisk, syscall.CLONE_NEWNS, append([]string{"sh", "-c", script, dir}, os.Args...)...)
}

// dirs has a directory for each run, named by its process. It is
// in build/ because the journal has to be on a disk.
const dirs = "../../../build/bench"

// newDir makes a directory on a disk.
func newDir(t *testing.T) string {
	t.Helper()
	dir := fmt.Sprintf("%s/ipam-%d-%d", dirs, os.Getpid(), time.Now().UnixNano())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	var fs syscall.Statfs_t
	const tmpfs = 0x01021994
	if err := syscall.Statfs(dir, &fs); err != nil || fs.Type == tmpfs {
		t.Fatalf("%s is in memory, and the journal has to be on a disk: move the tree to one (%v)", dir, err)
	}
	return dir
}

// weft is one `weft serve` with its journal and its sockets.
type weft struct {
	t     *testing.T
	dir   string
	store string // WEFT_STORE
	cmd   *exec.Cmd
}

// startWeft starts weft on a new journal and waits until it is a member.
func startWeft(t *testing.T, store string) *weft {
	t.Helper()
	w := &weft{t: t, dir: newDir(t), store: store}
	w.start()
	t.Cleanup(func() {
		w.kill()
		if t.Failed() {
			log, _ := os.ReadFile(w.path("log"))
			t.Logf("log of weft:\n%s", log[max(0, len(log)-2000):])
		}
	})
	w.awaitMember()
	return w
}

func (w *weft) path(name string) string { return filepath.Join(w.dir, name) }

func (w *weft) start() {
	w.t.Helper()
	log, err := os.OpenFile(w.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	// Neither an engine nor the machine's firewalld is there.
	w.cmd = exec.Command("../../../build/weft-"+runtime.GOARCH, "serve", "--socket", w.path("weft.sock"), "--journal", w.path("journal.db"),
		"--engine", w.path("no-engine.sock"), "--bus", "unix:path="+w.path("no-bus.sock"))
	// weft refuses settings that it does not know, the tests' own among them.
	w.cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "WEFT_") }), "WEFT_STORE="+w.store)
	w.cmd.Stdout, w.cmd.Stderr = log, log
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := w.cmd.Start(); err != nil {
		w.t.Fatalf("%v: build it with `make build`", err)
	}
}

// kill ends weft as a crash would; it may be repeated.
func (w *weft) kill() {
	if w.cmd != nil {
		_ = w.cmd.Process.Kill()
		_ = w.cmd.Wait() // says that it was killed
		w.cmd = nil
	}
}

func (w *weft) awaitMember() {
	w.t.Helper()
	storetest.Eventually(w.t, 30*time.Second, "weft is a member of the cluster", func() error {
		c, err := admin.Dial(w.t.Context(), w.path(admin.SocketName))
		if err != nil {
			return err
		}
		st, err := c.Store(w.t.Context())
		if err == nil && (!st.Up || st.Standing != "member") {
			err = fmt.Errorf("up: %v, standing: %s %s", st.Up, st.Standing, st.Reason)
		}
		return err
	})
}

// rss is what the process has in memory now, in MB.
func (w *weft) rss() float64 {
	w.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.cmd.Process.Pid))
	if err != nil {
		w.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		w.t.Fatal(err)
	}
	return float64(kb) / 1024
}

// pool makes a pool with its gateway, as a network does, and returns its PoolID.
func (w *weft) pool(subnet string) string {
	w.t.Helper()
	c := w.dial()
	defer c.Close()
	var pool struct{ PoolID string }
	if err := c.call("RequestPool", map[string]any{"AddressSpace": "weft-local", "Pool": subnet}, &pool); err != nil {
		w.t.Fatal(err)
	}
	gateway := map[string]any{"PoolID": pool.PoolID, "Options": map[string]string{"RequestAddressType": "com.docker.network.gateway"}}
	if err := c.call("RequestAddress", gateway, nil); err != nil {
		w.t.Fatal(err)
	}
	return pool.PoolID
}

// client is one connection to the plugin socket. It does as little as possible:
// it shares the machine's processors with what is measured.
type client struct {
	net.Conn
	in *bufio.Reader
}

func (w *weft) dial() *client {
	w.t.Helper()
	c, err := w.tryDial()
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *weft) tryDial() (*client, error) {
	dir, err := os.Open(w.dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// The path may be too long for the address of a socket.
	conn, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/weft.sock", dir.Fd()))
	if err != nil {
		return nil, err
	}
	return &client{Conn: conn, in: bufio.NewReader(conn)}, nil
}

func (c *client) call(method string, doc, answer any) error {
	body, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c, "POST /IpamDriver.%s HTTP/1.1\r\nHost: weft\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", method, len(body), body)
	if err != nil {
		return err
	}
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", method, text)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(text, answer)
}

// get requests one address.
func (c *client) get(pool string) (netip.Addr, error) {
	var got struct{ Address netip.Prefix }
	err := c.call("RequestAddress", map[string]any{"PoolID": pool, "Options": map[string]string{}}, &got)
	return got.Address.Addr(), err
}

func (c *client) put(pool string, a netip.Addr) error {
	return c.call("ReleaseAddress", map[string]any{"PoolID": pool, "Address": a}, nil)
}

// many lets callers request n addresses of a pool together. It returns the
// addresses and how long each took.
func (w *weft) many(pool string, callers, n int) (got []netip.Addr, took []time.Duration, err error) {
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for i := range callers {
		c, err := w.tryDial()
		if err != nil {
			return nil, nil, err
		}
		wg.Go(func() {
			defer c.Close()
			for k := i; k < n; k += callers {
				begin := time.Now()
				a, err := c.get(pool)
				d := time.Since(begin)
				mu.Lock()
				got, took, errs = append(got, a), append(took, d), append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return got, took, errors.Join(errs...)
}

// release gives addresses back, and returns how long each took.
func (w *weft) release(pool string, all []netip.Addr) []time.Duration {
	w.t.Helper()
	c := w.dial()
	defer c.Close()
	var took []time.Duration
	for _, a := range all {
		begin := time.Now()
		if err := c.put(pool, a); err != nil {
			w.t.Fatal(err)
		}
		took = append(took, time.Since(begin))
	}
	return took
}

// cpuTimes are the processor times that all wefts, this process, and the machine as
// a whole have used.
func cpuTimes(t *testing.T, all []*weft) (ofWeft, ofBench, ofAll time.Duration) {
	t.Helper()
	ticks := func(file string, skip int, fields ...int) (sum time.Duration) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		line, _, _ := strings.Cut(string(text), "\n")
		words := strings.Fields(line[skip:])
		for _, i := range fields {
			n, err := strconv.Atoi(words[i])
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			sum += time.Duration(n) * 10 * time.Millisecond
		}
		return sum
	}
	for _, w := range all {
		ofWeft += ticks(fmt.Sprintf("/proc/%d/stat", w.cmd.Process.Pid), 0, 13, 14)
	}
	// user, nice, system, irq, softirq
	return ofWeft, ticks("/proc/self/stat", 0, 13, 14), ticks("/proc/stat", len("cpu"), 0, 1, 2, 5, 6)
}

// metric sums up a counter of all members of the store.
func metric(t *testing.T, c *storetest.Cluster, name string, labels ...string) int {
	t.Helper()
	sum := 0
	for i := range c.Members() {
		host, _, _ := strings.Cut(c.Endpoint(i), ":")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+":2381/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		res.Body.Close()
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			fits := strings.HasPrefix(line, name)
			for _, l := range labels {
				fits = fits && strings.Contains(line, l)
			}
			if fits {
				words := strings.Fields(line)
				n, err := strconv.ParseFloat(words[len(words)-1], 64)
				if err != nil {
					t.Fatalf("metric %q: %v", line, err)
				}
				sum += int(n)
			}
		}
	}
	return sum
}

// transactions is how many transactions the store has answered, those whose
// conditions did not hold too.
func transactions(t *testing.T, c *storetest.Cluster) int {
	t.Helper()
	return metric(t, c, "grpc_server_handled_total", `grpc_method="Txn"`)
}
