package storetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/testmain"
)

const (
	clientPort = 2379
	peerPort   = 2380
	healthPort = 2381

	// startLimit bounds how long a cluster may take to answer.
	startLimit = 30 * time.Second

	rootPassword = "root's own"

	// dataDirs begins the names of all data directories; the number of their
	// process follows.
	dataDirs = "/dev/shm/storetest-"
)

// Config describes a cluster.
type Config struct {
	Version string // "3.4" or "3.5"
	Members int    // 1 if it is 0
	// TLS makes members talk TLS to clients and ask for a certificate.
	TLS bool
	// Auth makes members ask for a user and a password. The one of Cluster may
	// read and write below weft/.
	Auth bool
	// Quota is the size in bytes beyond which it takes no more; etcd's default if 0.
	Quota int64
	// Args are more arguments of etcd.
	Args []string
}

// A Cluster is running etcd. One goroutine at a time may use it.
type Cluster struct {
	// CA, Cert and Key are files for a client, with Config.TLS.
	CA, Cert, Key string
	// Authority signed them.
	Authority *Authority
	// User and Password are for a client, with Config.Auth.
	User, Password string

	tb      testing.TB
	cfg     Config
	bin     string
	dir     string
	slot    int // of the addresses
	members []*member
	locked  bool // auth is on
}

type member struct {
	name string
	addr string
	data string
	args []string
	cmd  *exec.Cmd // nil while it does not run
}

// Start starts a cluster and waits until it answers. It ends with the test.
func Start(tb testing.TB, cfg Config) *Cluster {
	tb.Helper()
	if !testmain.Inside() {
		tb.Fatal("storetest: the package's TestMain must call storetest.Main")
	}
	bin, err := Binaries(tb.Context(), cfg.Version)
	if err != nil {
		tb.Fatal(err)
	}
	cfg.Members = max(cfg.Members, 1)
	c := &Cluster{tb: tb, cfg: cfg, bin: bin, dir: newDir(tb)}
	c.slot = takeSlot(tb)
	c.define()
	tb.Cleanup(func() {
		c.Stop()
		if tb.Failed() {
			c.showLogs()
		}
	})
	c.StartAll()
	c.lockUp()
	return c
}

// newDir makes a directory in memory, where there is one: etcd syncs every change.
func newDir(tb testing.TB) string {
	tb.Helper()
	if _, err := os.Stat(filepath.Dir(dataDirs)); err != nil {
		return tb.TempDir()
	}
	dir := fmt.Sprintf("%s%d-%d", dataDirs, os.Getpid(), time.Now().UnixNano())
	if err := os.Mkdir(dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

// takeSlot returns a number that no other cluster in this namespace has: it is
// held by an abstract socket.
func takeSlot(tb testing.TB) int {
	tb.Helper()
	for slot := 1; slot < 250; slot++ {
		l, err := net.Listen("unix", fmt.Sprintf("@storetest-%d", slot))
		if err == nil {
			tb.Cleanup(func() { _ = l.Close() })
			return slot
		}
	}
	tb.Fatal("storetest: too many clusters")
	return 0
}

// define says how each member is started.
func (c *Cluster) define() {
	var peers []string
	for i := range c.cfg.Members {
		m := &member{name: fmt.Sprintf("m%d", i), addr: fmt.Sprintf("127.0.%d.%d", c.slot, i+1)}
		m.data = filepath.Join(c.dir, m.name)
		peers = append(peers, fmt.Sprintf("%s=http://%s:%d", m.name, m.addr, peerPort))
		c.members = append(c.members, m)
	}
	scheme := "http"
	var common []string
	if c.cfg.TLS {
		scheme = "https"
		c.Authority = NewAuthority(c.tb, c.dir, "authority")
		c.CA = c.Authority.CA
		c.Cert, c.Key = c.Authority.Issue(c.tb, "client")
		common = append(common, "--client-cert-auth", "--trusted-ca-file="+c.CA)
	}
	if c.cfg.Quota != 0 {
		common = append(common, fmt.Sprintf("--quota-backend-bytes=%d", c.cfg.Quota))
	}
	for _, m := range c.members {
		client, peer := fmt.Sprintf("%s://%s:%d", scheme, m.addr, clientPort), fmt.Sprintf("http://%s:%d", m.addr, peerPort)
		m.args = append([]string{
			"--name=" + m.name, "--data-dir=" + m.data, "--initial-cluster=" + strings.Join(peers, ","), "--initial-cluster-token=storetest",
			"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
			fmt.Sprintf("--listen-metrics-urls=http://%s:%d", m.addr, healthPort),
			"--heartbeat-interval=100", "--election-timeout=600", "--logger=zap", "--log-level=warn",
		}, common...)
		if c.cfg.TLS {
			cert, key := c.Authority.Issue(c.tb, m.name, m.addr)
			m.args = append(m.args, "--cert-file="+cert, "--key-file="+key)
		}
		m.args = append(m.args, c.cfg.Args...)
	}
}

// Endpoints returns the text of WEFT_STORE.
func (c *Cluster) Endpoints() string {
	scheme := "etcd://"
	if c.cfg.TLS {
		scheme = "etcds://"
	}
	var all []string
	for _, m := range c.members {
		all = append(all, fmt.Sprintf("%s:%d", m.addr, clientPort))
	}
	return scheme + strings.Join(all, ",")
}

// Endpoint returns that of one member, as store.Status names it.
func (c *Cluster) Endpoint(i int) string { return fmt.Sprintf("%s:%d", c.members[i].addr, clientPort) }

// Members returns how many there are.
func (c *Cluster) Members() int { return len(c.members) }

// launch starts a member and does not wait for it.
func (c *Cluster) launch(m *member) {
	c.tb.Helper()
	log, err := os.OpenFile(filepath.Join(c.dir, m.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		c.tb.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(c.bin, "etcd"), m.args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.dir, log, log
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		c.tb.Fatal(err)
	}
	m.cmd = cmd
}

// StartAll starts all members that do not run and waits until each answers.
func (c *Cluster) StartAll() {
	c.tb.Helper()
	for _, m := range c.members {
		if m.cmd == nil {
			c.launch(m)
		}
	}
	for i := range c.members {
		c.await(i)
	}
}

// Restart starts a member that does not run and waits until it answers.
func (c *Cluster) Restart(i int) {
	c.tb.Helper()
	c.launch(c.members[i])
	c.await(i)
}

// Launch starts a member that does not run, without waiting.
func (c *Cluster) Launch(i int) {
	c.tb.Helper()
	c.launch(c.members[i])
}

// Kill ends a member as a power cut would.
func (c *Cluster) Kill(i int) {
	if m := c.members[i]; m.cmd != nil {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait() // says that it was killed
		m.cmd = nil
	}
}

// Stop kills all members.
func (c *Cluster) Stop() {
	for i := range c.members {
		c.signal(i, syscall.SIGKILL)
	}
	for i := range c.members {
		c.Kill(i)
	}
}

// Pause stops a member in its tracks: its connections stay, nothing answers. It
// waits until the kernel has done so.
func (c *Cluster) Pause(i int) {
	c.tb.Helper()
	c.signal(i, syscall.SIGSTOP)
	Eventually(c.tb, startLimit, "etcd stops", func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.members[i].cmd.Process.Pid))
		if err == nil && !strings.Contains(string(stat), ") T ") {
			err = errors.New(string(stat))
		}
		return err
	})
}

// Resume ends Pause.
func (c *Cluster) Resume(i int) { c.signal(i, syscall.SIGCONT) }

// Cut lets no packet to or from a member's address pass, without a word to
// anybody, as a broken network would.
func (c *Cluster) Cut(i int) {
	c.tb.Helper()
	c.filter(fmt.Sprintf(`table inet storetest {
		set cut { type ipv4_addr; }
		chain input { type filter hook input priority 0; ip daddr @cut drop; ip saddr @cut drop; }
	}
	flush chain inet storetest input
	add rule inet storetest input ip daddr @cut drop
	add rule inet storetest input ip saddr @cut drop
	add element inet storetest cut { %s }`, c.members[i].addr))
}

// Heal ends Cut.
func (c *Cluster) Heal(i int) {
	c.tb.Helper()
	c.filter(fmt.Sprintf("delete element inet storetest cut { %s }", c.members[i].addr))
}

func (c *Cluster) filter(rules string) {
	c.tb.Helper()
	cmd := exec.CommandContext(c.tb.Context(), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.tb.Fatalf("nft: %v: %s", err, out)
	}
}

func (c *Cluster) signal(i int, sig syscall.Signal) {
	if cmd := c.members[i].cmd; cmd != nil {
		_ = cmd.Process.Signal(sig)
	}
}

// await waits until a member has a leader and answers.
func (c *Cluster) await(i int) {
	c.tb.Helper()
	m := c.members[i]
	url := fmt.Sprintf("http://%s:%d/health", m.addr, healthPort)
	Eventually(c.tb, startLimit, "etcd "+m.name+" answers", func() error {
		body, err := fetchText(c.tb.Context(), url)
		if err == nil && !strings.Contains(body, `"true"`) {
			err = errors.New(body)
		}
		return err
	})
}

// Leader returns which member leads, -1 if none says so.
func (c *Cluster) Leader() int {
	for i, m := range c.members {
		if m.cmd == nil {
			continue
		}
		body, err := fetchText(c.tb.Context(), fmt.Sprintf("http://%s:%d/metrics", m.addr, healthPort))
		if err == nil && strings.Contains(body, "\netcd_server_is_leader 1\n") {
			return i
		}
	}
	return -1
}

func fetchText(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}

// Eventually repeats a check until it succeeds, and fails the test after limit.
func Eventually(tb testing.TB, limit time.Duration, what string, check func() error) {
	tb.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for err := check(); err != nil; err = check() {
		if time.Now().After(deadline) {
			tb.Fatalf("%s: not within %s: %v", what, limit, err)
		}
		<-tick.C
	}
}

func (c *Cluster) showLogs() {
	for _, m := range c.members {
		log, _ := os.ReadFile(filepath.Join(c.dir, m.name+".log"))
		if len(log) > 4000 {
			log = log[len(log)-4000:]
		}
		c.tb.Logf("log of %s:\n%s", m.name, log)
	}
}
