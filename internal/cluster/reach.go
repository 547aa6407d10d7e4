package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// reachWait is how long the other hosts have to say whether they reach a host. Each
// of them waits for that host for half of it.
const reachWait = 3 * time.Second

// question asks all hosts whether an address answers them.
type question struct {
	Version int            `json:"v"`
	From    ownership.Host `json:"from"`
	Address netip.Addr     `json:"address"`
}

// reached is one host's answer to a question.
type reached struct {
	Version int  `json:"v"`
	Answers bool `json:"answers"`
}

// answers asks the kernel; true is the careful answer.
func (c *Cluster) answers(a netip.Addr) bool {
	if c.cfg.Answers == nil {
		return false
	}
	ok, err := c.cfg.Answers(a, reachWait/2)
	if err != nil {
		c.cfg.Logger.Warn("whether a host answers", "address", a, "err", err)
	}
	return ok || err != nil
}

// reachedBy asks all connected hosts and this one whether h answers them. It returns
// the names of those that it answers, and of those that did not say.
func (c *Cluster) reachedBy(ctx context.Context, h HostView) (by, silent []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, reachWait)
	defer cancel()
	own := make(chan bool, 1)
	go func() { own <- c.answers(h.Address) }()
	asked, err := c.others(ctx, h.ID)
	if err != nil {
		return nil, nil, err
	}
	answers, err := c.askAll(ctx, question{Version: recordVersion, From: c.Me(), Address: h.Address}, h.ID, asked)
	if err != nil {
		return nil, nil, err
	}
	if <-own {
		by = append(by, c.cfg.Name)
	}
	for _, id := range asked {
		switch answer, said := answers[id]; {
		case !said:
			silent = append(silent, c.Name(id))
		case answer:
			by = append(by, c.Name(id))
		}
	}
	return by, silent, nil
}

// others are the connected hosts but this one and h.
func (c *Cluster) others(ctx context.Context, h ownership.Host) ([]ownership.Host, error) {
	alive, err := c.cfg.Store.Read(ctx, prefixAlive)
	if err != nil {
		return nil, err
	}
	var out []ownership.Host
	for _, kv := range alive.KVs {
		if id := hostOf(kv.Key, prefixAlive); id != h && id != c.Me() {
			out = append(out, id)
		}
	}
	return out, nil
}

// askAll puts a question about a host and collects the answers of the hosts that are
// asked, until all have come or ctx ends.
func (c *Cluster) askAll(ctx context.Context, q question, about ownership.Host, asked []ownership.Host) (map[ownership.Host]bool, error) {
	out := make(map[ownership.Host]bool)
	if len(asked) == 0 {
		return out, nil
	}
	key := prefixReach + string(about) + "/" + NewID()
	pass := c.Pass()
	c.mu.Lock()
	c.asking[key] = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.asking, key)
	}()
	res, err := c.put(ctx, pass.under(store.Txn{Then: []store.Op{store.Put(key, encode(q))}}))
	if err == nil && !res.OK {
		err = ErrBusy
	}
	if err != nil && !errors.Is(err, store.ErrUnknown) {
		return nil, err
	}
	defer c.dropQuestion(ctx, key)
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	err = c.cfg.Store.Watch(watch, key+"/", func(u store.Update) {
		for _, kv := range u.Puts {
			if a, err := decode[reached](kv); err == nil {
				out[hostOf(kv.Key, key+"/")] = a.Answers
			}
		}
		if !slices.ContainsFunc(asked, func(h ownership.Host) bool { _, said := out[h]; return !said }) {
			cancel()
		}
	})
	if watch.Err() == nil {
		return nil, err
	}
	return out, nil
}

// dropQuestion deletes a question and its answers. If that fails, SweepAsks does it.
func (c *Cluster) dropQuestion(ctx context.Context, key string) {
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTime)
	defer cancel()
	if _, err := c.put(after, store.Txn{Then: []store.Op{store.DeletePrefix(key)}}); err != nil {
		c.cfg.Logger.Debug("a question stays until the next sweep", "key", key, "err", err)
	}
}

// sweepQuestions deletes questions of this host for which nobody waits.
func (c *Cluster) sweepQuestions(ctx context.Context) error {
	all, err := c.cfg.Store.Read(ctx, prefixReach)
	if err != nil {
		return err
	}
	for _, kv := range all.KVs {
		q, ok := questionOf(kv)
		c.mu.Lock()
		mine := ok && q.From == c.id.ID && !c.asking[kv.Key]
		c.mu.Unlock()
		if mine {
			c.dropQuestion(ctx, kv.Key)
		}
	}
	return nil
}

// questionOf reads a record below prefixReach; ok is false for an answer.
func questionOf(kv store.KV) (q question, ok bool) {
	if strings.Count(kv.Key, "/") != strings.Count(prefixReach, "/")+1 {
		return q, false
	}
	q, err := decode[question](kv)
	return q, err == nil && q.Address.IsValid()
}

// answerQuestions tells other hosts whether a host answers here, until ctx ends.
func (c *Cluster) answerQuestions(ctx context.Context) error {
	var work sync.WaitGroup
	defer work.Wait()
	return c.cfg.Store.Watch(ctx, prefixReach, func(u store.Update) {
		for _, kv := range u.Puts {
			q, ok := questionOf(kv)
			if !ok || q.From == c.Me() {
				continue
			}
			work.Go(func() {
				answer := encode(reached{Version: recordVersion, Answers: c.answers(q.Address)})
				limited, cancel := context.WithTimeout(ctx, reachWait)
				defer cancel()
				txn := store.Txn{
					If:   []store.Cond{store.Unchanged(kv.Key, kv.Rev)}, // somebody still waits
					Then: []store.Op{store.Put(kv.Key+"/"+string(c.Me()), answer)},
				}
				if _, err := c.put(limited, txn); err != nil {
					c.cfg.Logger.Debug("tell whether a host answers", "err", err)
				}
			})
		}
	})
}

// errReached says who still reaches a host, or that this is not known.
func errReached(h HostView, by, silent []string) error {
	if len(by) > 0 {
		return fmt.Errorf("%w: %s still answers at %s (asked by %s): power it off, or say --powered-off if that is another machine",
			ErrConnected, h.Name, h.Address, strings.Join(by, ", "))
	}
	return fmt.Errorf("%w, as far as is known: %s did not say whether %s answers at %s: try again, or say --powered-off if it is off",
		ErrConnected, strings.Join(silent, ", "), h.Name, h.Address)
}
