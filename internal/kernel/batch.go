package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// batchBytes is how much one sendmsg carries: several hundred messages, well
	// below a socket's default buffer (212,992 bytes).
	batchBytes = 32 << 10
	// batchBuffer holds an answer to each message of a batch. The kernel accounts
	// about 1 KB for each.
	batchBuffer = 4 << 20
)

// A batch is a list of netlink messages that one sendmsg carries, or a few.
type batch struct {
	buf  []byte
	ends []int // where each message ends in buf
}

// message appends one message; body appends what follows the header.
func (b *batch) message(typ, flags uint16, body func([]byte) []byte) {
	start := len(b.buf)
	b.buf = append(b.buf, make([]byte, unix.SizeofNlMsghdr)...)
	b.buf = body(b.buf)
	m := b.buf[start:]
	binary.NativeEndian.PutUint32(m, uint32(len(m)))
	binary.NativeEndian.PutUint16(m[4:], typ)
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST|flags)
	b.ends = append(b.ends, len(b.buf))
}

// attribute appends one route attribute, padded.
func attribute(b []byte, typ uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, value...)
	return append(b, make([]byte, -len(b)&3)...)
}

func (b *batch) span(from, to int) []byte {
	start := 0
	if from > 0 {
		start = b.ends[from-1]
	}
	return b.buf[start:b.ends[to-1]]
}

// A batchSocket sends batches. rtnetlink works within sendmsg: when it returns,
// every message was carried out in order, whatever became of the one before,
// and the answers wait in the socket. Only the last message asks for an answer,
// because the kernel answers errors unasked.
type batchSocket struct {
	mu  sync.Mutex
	fd  int
	seq uint32
	in  []byte
}

// openBatch opens the socket in the calling thread's network namespace.
func openBatch() (*batchSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, errors.Join(fmt.Errorf("open netlink: %w", err), unix.Close(fd))
	}
	// None of these is needed. A small buffer means more, smaller batches.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, batchBuffer)
	// Answers without the question, and with the reason in words (Linux 4.12).
	for _, option := range []int{unix.NETLINK_CAP_ACK, unix.NETLINK_EXT_ACK} {
		_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, option, 1)
	}
	return &batchSocket{fd: fd, in: make([]byte, 16<<10)}, nil
}

// Close frees the socket.
func (s *batchSocket) Close() error { return unix.Close(s.fd) }

// run carries out every message and returns the error of each, in order. They
// must bear repetition: when the kernel lost answers (ENOBUFS), they are sent
// again in smaller batches. The second error is that of the socket.
func (s *batchSocket) run(b *batch) ([]error, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := make([]error, len(b.ends))
	for from := 0; from < len(b.ends); {
		to := from + 1
		for to < len(b.ends) && len(b.span(from, to+1)) <= batchBytes {
			to++
		}
		if err := s.send(b, from, to, errs); err != nil {
			return errs, err
		}
		from = to
	}
	return errs, nil
}

// send carries out some of the messages, halving what the kernel's answer got
// lost of.
func (s *batchSocket) send(b *batch, from, to int, errs []error) error {
	all, err := s.exchange(b, from, to, errs)
	if err != nil || all {
		return err
	}
	if to-from == 1 {
		return fmt.Errorf("netlink batch: %w", syscall.ENOBUFS)
	}
	half := (from + to) / 2
	if err := s.send(b, from, half, errs); err != nil {
		return err
	}
	return s.send(b, half, to, errs)
}

// exchange sends once and reads all answers. It reports false when some were lost.
func (s *batchSocket) exchange(b *batch, from, to int, errs []error) (all bool, err error) {
	first := s.seq + 1
	for i := from; i < to; i++ {
		s.seq++
		m := b.span(i, i+1)
		binary.NativeEndian.PutUint32(m[8:], s.seq)
		if i == to-1 {
			binary.NativeEndian.PutUint16(m[6:], binary.NativeEndian.Uint16(m[6:])|unix.NLM_F_ACK)
		}
	}
	for {
		err := unix.Sendto(s.fd, b.span(from, to), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EINTR) {
			return false, fmt.Errorf("netlink batch: %w", err)
		}
	}
	lost, last := false, false
	for {
		n, _, err := unix.Recvfrom(s.fd, s.in, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.ENOBUFS):
			lost = true
			continue
		case errors.Is(err, syscall.EAGAIN):
			return last && !lost, nil
		case err != nil:
			return false, fmt.Errorf("netlink batch: %w", err)
		}
		msgs, err := syscall.ParseNetlinkMessage(s.in[:n])
		if err != nil {
			return false, fmt.Errorf("netlink batch: %w", err)
		}
		for _, m := range msgs {
			i := from + int(int32(m.Header.Seq-first))
			if m.Header.Type != unix.NLMSG_ERROR || len(m.Data) < 4 || i < from || i >= to {
				continue // of an earlier batch
			}
			errs[i] = answer(m)
			last = last || i == to-1
		}
	}
}

// answer decodes the kernel's verdict on one message (struct nlmsgerr); with
// extended answers it holds words after the header.
func answer(m syscall.NetlinkMessage) error {
	code := int32(binary.NativeEndian.Uint32(m.Data))
	if code == 0 {
		return nil
	}
	err := error(syscall.Errno(-code))
	const size = 4 + unix.SizeofNlMsghdr
	if m.Header.Flags&unix.NLM_F_ACK_TLVS == 0 || m.Header.Flags&unix.NLM_F_CAPPED == 0 || len(m.Data) < size {
		return err
	}
	attrs, parseErr := nl.ParseRouteAttr(m.Data[size:])
	if parseErr != nil {
		return err
	}
	for _, a := range attrs {
		if a.Attr.Type == nl.NLMSGERR_ATTR_MSG {
			return fmt.Errorf("%w: %s", err, unix.ByteSliceToString(a.Value))
		}
	}
	return err
}
