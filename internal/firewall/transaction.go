package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A transaction is messages to nf_tables that are carried out together or not at all,
// for sockets that the library cannot have: it needs their tables to have no flags, and
// the threads that use them to have the process's descriptors.
type transaction struct {
	family byte
	list   []netlink.Message
	err    error
}

// add appends a message of a kind (NFT_MSG_…) with its attributes.
func (t *transaction) add(kind int, flags netlink.HeaderFlags, attrs ...netlink.Attribute) {
	data, err := netlink.MarshalAttributes(attrs)
	t.err = errors.Join(t.err, err)
	t.list = append(t.list, netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | flags},
		Data:   append([]byte{t.family, unix.NFNETLINK_V0, 0, 0}, data...),
	})
}

// nested is an attribute made of attributes.
func (t *transaction) nested(kind uint16, attrs ...netlink.Attribute) netlink.Attribute {
	data, err := netlink.MarshalAttributes(attrs)
	t.err = errors.Join(t.err, err)
	return netlink.Attribute{Type: kind | unix.NLA_F_NESTED, Data: data}
}

// expressions are what a rule does.
func (t *transaction) expressions(list []expr.Any) netlink.Attribute {
	var attrs []netlink.Attribute
	for _, e := range list {
		data, err := expr.Marshal(t.family, e)
		t.err = errors.Join(t.err, err)
		attrs = append(attrs, netlink.Attribute{Type: unix.NFTA_LIST_ELEM | unix.NLA_F_NESTED, Data: data})
	}
	return t.nested(unix.NFTA_RULE_EXPRESSIONS, attrs...)
}

func text(kind uint16, s string) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: []byte(s + "\x00")}
}

func number32(kind uint16, n uint32) netlink.Attribute {
	return netlink.Attribute{Type: kind, Data: binary.BigEndian.AppendUint32(nil, n)}
}

// bytes is the transaction as a socket sends it. The last message is answered in any
// case, and so is each that fails; the first has the sequence number from, the last the
// one returned.
func (t *transaction) bytes(from uint32) ([]byte, uint32, error) {
	bound := func(kind int) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request},
			Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
		}
	}
	list := append([]netlink.Message{bound(unix.NFNL_MSG_BATCH_BEGIN)}, t.list...)
	list = append(list, bound(unix.NFNL_MSG_BATCH_END))
	var out []byte
	for i, m := range list {
		m.Header.Sequence = from + uint32(i)
		if i == len(list)-2 {
			m.Header.Flags |= netlink.Acknowledge
		}
		m.Data = append(m.Data, make([]byte, -len(m.Data)&(unix.NLMSG_ALIGNTO-1))...)
		m.Header.Length = uint32(unix.NLMSG_HDRLEN + len(m.Data))
		b, err := m.MarshalBinary()
		if err != nil {
			return nil, 0, errors.Join(t.err, err)
		}
		out = append(out, b...)
	}
	return out, from + uint32(len(list)-2), t.err
}

// A wire is a netlink socket that is used by plain system calls. It is not safe for
// concurrent use.
type wire struct {
	fd  int
	seq uint32
}

// answerTime bounds the kernel's answer in seconds; it waits for others' transactions.
const answerTime = 10

// openWire opens a socket in the calling thread's network namespace.
func openWire() (*wire, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: answerTime}),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}), // tables are owned by bound sockets
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening netfilter netlink: %w", err), unix.Close(fd))
	}
	return &wire{fd: fd, seq: 1}, nil
}

func (w *wire) close() error { return unix.Close(w.fd) }

// do carries out a transaction.
func (w *wire) do(t *transaction) error {
	first := w.seq
	b, last, err := t.bytes(first)
	if err != nil {
		return err
	}
	w.seq = last + 2
	if err := unix.Sendto(w.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	buf := make([]byte, 8192)
	for {
		n, _, err := unix.Recvfrom(w.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		for at := 0; n-at >= unix.NLMSG_HDRLEN+4; {
			size := int(binary.NativeEndian.Uint32(buf[at:]))
			kind, seq := binary.NativeEndian.Uint16(buf[at+4:]), binary.NativeEndian.Uint32(buf[at+8:])
			if kind == unix.NLMSG_ERROR && seq >= first { // others are left from an earlier one
				code := int32(binary.NativeEndian.Uint32(buf[at+unix.NLMSG_HDRLEN:]))
				if code != 0 {
					return unix.Errno(-code)
				}
				if seq == last {
					return nil
				}
			}
			at += max(size+unix.NLMSG_ALIGNTO-1, unix.NLMSG_HDRLEN) &^ (unix.NLMSG_ALIGNTO - 1)
		}
	}
}
