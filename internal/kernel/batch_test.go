package kernel

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// batchHere opens a batch socket in a namespace of the test's own, which ends
// with its thread.
func batchHere(t *testing.T) *batchSocket {
	t.Helper()
	runtime.LockOSThread() // never unlocked
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("unshare: %v (the tests run as root)", err)
	}
	s, err := openBatch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// absent is a batch of deletions of which each fails.
func absent(n int) *batch {
	b := &batch{}
	for i := range n {
		addr := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		Neighbor{Link: "lo", IP: addr}.message(1, false).put(b)
	}
	return b
}

// TestBatchLosesNoAnswer sends far more failures than the socket can hold
// answers: the batch is halved until every answer is there.
func TestBatchLosesNoAnswer(t *testing.T) {
	s := batchHere(t)
	for _, buffer := range []int{1, 20_000, batchBuffer} {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer); err != nil {
			t.Fatal(err)
		}
		const n = 3000
		errs, err := s.run(absent(n))
		if err != nil || len(errs) != n {
			t.Fatalf("buffer %d: %d answers, %v", buffer, len(errs), err)
		}
		for i, err := range errs {
			if !errors.Is(err, syscall.ENOENT) {
				t.Fatalf("buffer %d: message %d: %v", buffer, i, err)
			}
		}
	}
}

// TestBatchOrder gives each message its own answer, also after a batch whose
// numbers wrapped around.
func TestBatchOrder(t *testing.T) {
	s := batchHere(t)
	s.seq = ^uint32(0) - 700
	for range 3 {
		b := &batch{}
		for i := range 1000 {
			n := Neighbor{Link: "lo", IP: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), MAC: MAC{2, 5: 1}}
			index := 1
			if i%7 == 0 {
				index = 4711
			}
			n.message(index, true).put(b)
		}
		errs, err := s.run(b)
		if err != nil {
			t.Fatal(err)
		}
		for i, err := range errs {
			if i%7 == 0 != errors.Is(err, syscall.ENODEV) {
				t.Fatalf("message %d: %v", i, err)
			}
		}
	}
	if errs, err := s.run(&batch{}); err != nil || len(errs) != 0 {
		t.Errorf("nothing to do: %v, %v", errs, err)
	}
}

// TestAnswer decodes what the kernel says, with and without words.
func TestAnswer(t *testing.T) {
	code := func(errno syscall.Errno) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(-int32(errno))) }
	header := make([]byte, unix.SizeofNlMsghdr)
	words := attribute(append(code(syscall.EINVAL), header...), 1, []byte("no such thing\x00"))
	for name, c := range map[string]struct {
		data  []byte
		flags uint16
		want  error
		words string
	}{
		"success":   {code(0), 0, nil, ""},
		"error":     {append(code(syscall.ENOENT), header...), unix.NLM_F_CAPPED, syscall.ENOENT, ""},
		"words":     {words, unix.NLM_F_CAPPED | unix.NLM_F_ACK_TLVS, syscall.EINVAL, "no such thing"},
		"truncated": {words[:len(words)-3], unix.NLM_F_CAPPED | unix.NLM_F_ACK_TLVS, syscall.EINVAL, ""},
		"short":     {code(syscall.EPERM), unix.NLM_F_CAPPED | unix.NLM_F_ACK_TLVS, syscall.EPERM, ""},
	} {
		err := answer(syscall.NetlinkMessage{Header: syscall.NlMsghdr{Flags: c.flags}, Data: c.data})
		if !errors.Is(err, c.want) || c.words != "" && !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMessageLayout compares a message with what linux/neighbour.h says.
func TestMessageLayout(t *testing.T) {
	b := &batch{}
	FDBEntry{MAC: MAC{2, 0, 0, 0, 0, 1}, Dst: netip.MustParseAddr("192.0.2.9")}.message(7, true).put(b)
	m := b.span(0, 1)
	if len(m) != 16+12+8+12 || int(binary.NativeEndian.Uint32(m)) != len(m) {
		t.Fatalf("%d bytes: % x", len(m), m)
	}
	if m[16] != unix.AF_BRIDGE || m[20] != 7 || m[26] != netlink.NTF_SELF || m[24] != netlink.NUD_NOARP|netlink.NUD_PERMANENT {
		t.Errorf("% x", m)
	}
}
