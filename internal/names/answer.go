package names

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	"golang.org/x/net/dns/dnsmessage"
)

// Verdict says what is to be done with a message.
type Verdict int

const (
	// Drop it: it is no question, and an answer would only help an attacker.
	Drop Verdict = iota
	// Pass it on to the engine's resolver, as it is.
	Pass
	// Reply to it.
	Reply
)

// Seconds for which an answer may be kept. The engine says 600 for all that it knows
// (libnetwork's resolver), and so does weft for names that are on this host only. A name
// that is elsewhere may move without the engine here hearing of it.
const (
	localTTL  = 600
	remoteTTL = 5
)

const (
	// minUDP is what everybody takes by UDP, maxUDP what weft takes and sends at most;
	// who wants more gets it by TCP.
	minUDP = 512
	maxUDP = 4096
	// maxMessage is what fits into a TCP frame.
	maxMessage = 1<<16 - 1
	headerSize = 12
	// optSize is an OPT record without options.
	optSize = 11
)

// Lookup is what Answer asks: a container's view of the names.
type Lookup interface {
	// Lookup finds a name that is in lower case and has no final dot; nil is unknown. Of
	// several records it is one with addresses of the type, if there are such.
	Lookup(name string, t dnsmessage.Type) *Record
	// Reverse is the full name of an address, empty if unknown.
	Reverse(a netip.Addr) (name string, local bool)
}

// A question is a message that weft may answer.
type question struct {
	header dnsmessage.Header
	dnsmessage.Question
	// edns says that the message has an OPT record, udp how much its sender takes.
	edns bool
	udp  int
}

// Answer decides about one message that came by UDP or TCP, and appends the reply, if
// there is one, to buf. turn rotates the addresses of names with several of them. It
// never says that a name does not exist: what it does not know it passes on.
func Answer(buf, message []byte, tcp bool, names Lookup, turn uint32) ([]byte, Verdict) {
	q, verdict := parse(message)
	if verdict != Reply {
		return buf, verdict
	}
	limit := q.udp
	if tcp {
		limit = maxMessage
	}
	switch q.Type {
	case dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypeMX:
		r := names.Lookup(Fold(q.Name.String()), q.Type)
		if r == nil {
			return buf, Pass
		}
		return pack(buf, q, limit, r.bodies(q.Type, turn), ttl(r.Local))
	case dnsmessage.TypePTR:
		a, ok := addressOf(Fold(q.Name.String()))
		if !ok {
			return buf, Pass
		}
		full, local := names.Reverse(a)
		name, err := dnsmessage.NewName(full + ".")
		if full == "" || err != nil {
			return buf, Pass
		}
		return pack(buf, q, limit, []dnsmessage.ResourceBody{&dnsmessage.PTRResource{PTR: name}}, ttl(local))
	}
	return buf, Pass
}

func ttl(local bool) uint32 {
	if local {
		return localTTL
	}
	return remoteTTL
}

// Failure appends a reply that says SERVFAIL: the engine's resolver did not answer. It
// is empty if the message has no question to reply to.
func Failure(buf, message []byte) []byte {
	return failure(buf, message, dnsmessage.RCodeServerFailure)
}

// failure appends a reply that says nothing but a code.
func failure(buf, message []byte, code dnsmessage.RCode) []byte {
	q, verdict := parse(message)
	if verdict == Drop || q.Name.Length == 0 {
		return buf
	}
	b := dnsmessage.NewBuilder(buf, q.reply(code))
	if err := b.StartQuestions(); err != nil {
		return buf
	}
	if err := b.Question(q.Question); err != nil {
		return buf
	}
	out, err := b.Finish()
	if err != nil {
		return buf
	}
	return out
}

// parse reads a message strictly: weft answers one question of class IN with nothing
// beside it but EDNS of version 0. The question is set, even if the verdict is Pass, when
// it can be read.
func parse(message []byte) (question, Verdict) {
	var p dnsmessage.Parser
	h, err := p.Start(message)
	if err != nil || h.Response {
		return question{}, Drop
	}
	q := question{header: h, udp: minUDP}
	if q.Question, err = p.Question(); err != nil {
		return question{}, Pass
	}
	if _, err := p.Question(); err != dnsmessage.ErrSectionDone { //nolint:errorlint // the library returns it bare
		return q, Pass
	}
	records := binary.BigEndian.Uint32(message[6:]) // answers and authorities
	if h.OpCode != 0 || h.Truncated || q.Class != dnsmessage.ClassINET || records != 0 {
		return q, Pass
	}
	if err := errors.Join(p.SkipAllAnswers(), p.SkipAllAuthorities()); err != nil {
		return q, Pass
	}
	return q, q.parseAdditional(&p, len(message))
}

// parseAdditional reads what is behind the question, up to the end of a message of that size.
func (q *question) parseAdditional(p *dnsmessage.Parser, size int) Verdict {
	read := headerSize + int(q.Name.Length) + 1 + 4 // of a name that is not the root, without pointers
	for {
		h, err := p.AdditionalHeader()
		switch {
		case err == dnsmessage.ErrSectionDone && read == size: //nolint:errorlint // the library returns it bare
			return Reply
		case err == dnsmessage.ErrSectionDone: //nolint:errorlint // the same
			return Pass
		}
		version := byte(h.TTL >> 16)
		if err != nil || q.edns || h.Type != dnsmessage.TypeOPT || h.Name.Length != 1 || version != 0 {
			return Pass
		}
		read += optSize + int(h.Length)
		q.edns, q.udp = true, min(max(minUDP, int(h.Class)), maxUDP)
		if _, err := p.OPTResource(); err != nil {
			return Pass
		}
	}
}

// reply is the header of a reply, as the engine's resolver makes it.
func (q question) reply(code dnsmessage.RCode) dnsmessage.Header {
	return dnsmessage.Header{
		ID: q.header.ID, Response: true, RCode: code, RecursionAvailable: true,
		RecursionDesired: q.header.RecursionDesired, CheckingDisabled: q.header.CheckingDisabled,
	}
}

// has says whether the record has addresses of the type's family, or, if it has none, any.
func (r *Record) has(t dnsmessage.Type) bool {
	switch t {
	case dnsmessage.TypeA:
		return len(r.IPv4) > 0
	case dnsmessage.TypeAAAA:
		return len(r.IPv6) > 0
	}
	return len(r.IPv4)+len(r.IPv6) > 0
}

// bodies are the record's addresses of one family, the turn-th first. Of other types a
// name has none.
func (r *Record) bodies(t dnsmessage.Type, turn uint32) []dnsmessage.ResourceBody {
	var addrs []netip.Addr
	switch t {
	case dnsmessage.TypeA:
		addrs = r.IPv4
	case dnsmessage.TypeAAAA:
		addrs = r.IPv6
	}
	out := make([]dnsmessage.ResourceBody, len(addrs))
	for i := range addrs {
		a := addrs[(uint64(turn)+uint64(i))%uint64(len(addrs))]
		if a.Is4() {
			out[i] = &dnsmessage.AResource{A: a.As4()}
		} else {
			out[i] = &dnsmessage.AAAAResource{AAAA: a.As16()}
		}
	}
	return out
}

// pack appends the reply. Records that do not fit into the limit are left out, and the
// reply says so: the client asks again by TCP, or lives with those it got. What cannot
// be packed is passed on.
func pack(buf []byte, q question, limit int, bodies []dnsmessage.ResourceBody, ttl uint32) ([]byte, Verdict) {
	const fixed = 2 + 10 // of a record whose name points to the question's
	used := headerSize + int(q.Name.Length) + 1 + 4
	if q.edns {
		used += optSize
	}
	fit := 0
	for _, body := range bodies {
		if used += fixed + size(body); used > limit {
			break
		}
		fit++
	}
	out, err := q.build(buf, bodies[:fit], ttl, fit < len(bodies))
	if err != nil {
		return buf, Pass
	}
	return out, Reply
}

// size is how much a record's data takes at most.
func size(body dnsmessage.ResourceBody) int {
	switch body := body.(type) {
	case *dnsmessage.AResource:
		return net.IPv4len
	case *dnsmessage.PTRResource:
		return int(body.PTR.Length) + 1
	}
	return net.IPv6len
}

// build appends a message with these records.
func (q question) build(buf []byte, bodies []dnsmessage.ResourceBody, ttl uint32, truncated bool) ([]byte, error) {
	h := q.reply(dnsmessage.RCodeSuccess)
	h.Truncated = truncated
	b := dnsmessage.NewBuilder(buf, h)
	b.EnableCompression()
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if err := b.Question(q.Question); err != nil {
		return nil, err
	}
	if err := b.StartAnswers(); err != nil {
		return nil, err
	}
	of := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: ttl}
	for _, body := range bodies {
		var err error
		switch body := body.(type) {
		case *dnsmessage.AResource:
			err = b.AResource(of, *body)
		case *dnsmessage.AAAAResource:
			err = b.AAAAResource(of, *body)
		case *dnsmessage.PTRResource:
			err = b.PTRResource(of, *body)
		}
		if err != nil {
			return nil, err
		}
	}
	if !q.edns {
		return b.Finish()
	}
	if err := b.StartAdditionals(); err != nil {
		return nil, err
	}
	var opt dnsmessage.ResourceHeader
	if err := opt.SetEDNS0(maxUDP, dnsmessage.RCodeSuccess, false); err != nil {
		return nil, err
	}
	if err := b.OPTResource(opt, dnsmessage.OPTResource{}); err != nil {
		return nil, err
	}
	return b.Finish()
}
