package kernel_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/kernel"
	"github.com/weft-net/weft/internal/kernel/kerneltest"
)

// loopback is any free port of a loopback address that nobody configured.
func loopback() netip.AddrPort { return netip.MustParseAddrPort("127.0.0.11:0") }

func addrPort(a net.Addr) netip.AddrPort {
	return a.(interface{ AddrPort() netip.AddrPort }).AddrPort()
}

func openSandbox(t *testing.T, h *kernel.Host, path string) *kernel.Sandbox {
	t.Helper()
	s, err := h.OpenSandbox(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	inSandbox(t, path, "link", "set", "lo", "up")
	return s
}

// What is sent in the sandbox arrives there, from the address asked for.
func TestSocketsAreInTheSandbox(t *testing.T) {
	s := openSandbox(t, kerneltest.Host(t), kerneltest.Sandbox(t))

	server, err := s.ListenUDP(loopback())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := s.DialUDP(kernel.Dialing{From: netip.MustParseAddr("127.0.0.77"), To: addrPort(server.LocalAddr())})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	_ = server.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, from, err := server.ReadFromUDPAddrPort(buf)
	if err != nil || string(buf[:n]) != "question" || from != addrPort(client.LocalAddr()) || from.Addr() != netip.MustParseAddr("127.0.0.77") {
		t.Fatalf("got %q from %s: %v", buf[:n], from, err)
	}
}

func TestTCPInTheSandbox(t *testing.T) {
	s := openSandbox(t, kerneltest.Host(t), kerneltest.Sandbox(t))
	l, err := s.ListenTCP(loopback())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := addrPort(l.Addr())
	c, err := s.DialTCP(kernel.Dialing{To: at}, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := accepted.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Fatal(n, err)
	}

	l.Close()
	if c, err := s.DialTCP(kernel.Dialing{To: at}, 5*time.Second); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("to a closed port: %v, %v, want connection refused", c, err)
	}
}

// A packet that nobody answers costs the timeout and no thread.
func TestTCPTimesOut(t *testing.T) {
	path := kerneltest.Sandbox(t)
	s := openSandbox(t, kerneltest.Host(t), path)
	inSandbox(t, path, "link", "add", "up0", "type", "veth", "peer", "up1")
	inSandbox(t, path, "addr", "add", "192.0.2.1/24", "dev", "up0")
	inSandbox(t, path, "neigh", "add", "192.0.2.2", "lladdr", "02:00:00:00:00:02", "dev", "up0")
	inSandbox(t, path, "link", "set", "up0", "up")
	inSandbox(t, path, "link", "set", "up1", "up")
	started := time.Now()
	c, err := s.DialTCP(kernel.Dialing{To: netip.MustParseAddrPort("192.0.2.2:53")}, 50*time.Millisecond)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%v, %v, want the deadline exceeded", c, err)
	}
	if took := time.Since(started); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestSandboxThatWentIsNotAtItsPath(t *testing.T) {
	h, path := kerneltest.Host(t), kerneltest.Sandbox(t)
	s := openSandbox(t, h, path)
	if !s.At(path) {
		t.Error("a mounted sandbox is not at its path")
	}
	if other := kerneltest.Sandbox(t); s.At(other) {
		t.Error("a sandbox is at the path of another one")
	}
	if s.At(filepath.Join(t.TempDir(), "gone")) {
		t.Error("a sandbox is at a path where nothing is")
	}
	if _, err := h.OpenSandbox(filepath.Join(t.TempDir(), "gone")); !errors.Is(err, kernel.ErrNotFound) {
		t.Errorf("opening what is not there: %v, want %v", err, kernel.ErrNotFound)
	}
}
