package names

import (
	"errors"
	"fmt"
	"time"

	"github.com/weft-net/weft/internal/kernel"
)

// errHung is why the watchdog closes a server.
var errHung = errors.New("questions wait and nothing answers them: the engine alone answers until the next try")

// watch looks at all servers, if it is time to: whether they do something, have to be
// renewed, and have a sandbox at all. One goroutine does it for all; a server that has
// nothing to do is not woken.
func (s *Service) watch(now time.Time) {
	s.mu.Lock()
	look := !now.Before(s.looked.Add(lookEvery))
	if !look {
		s.mu.Unlock()
		return
	}
	s.looked = now
	renew, tidy := !now.Before(s.renewed.Add(renewEvery)), !now.Before(s.tidied.Add(tidyEvery))
	if renew {
		s.renewed = now
	}
	if tidy {
		s.tidied = now
	}
	var paths []string
	var serving []*server
	for path, a := range s.attended {
		if a.server != nil && !a.busy && a.wanted && a.fault == nil {
			paths, serving = append(paths, path), append(serving, a.server)
		}
	}
	s.mu.Unlock()
	if renew {
		s.renew(serving)
	}
	for i, server := range serving {
		if err := server.check(paths[i], tidy); err != nil {
			server.fail(err)
		}
	}
}

// renew makes the redirects of servers hold on.
func (s *Service) renew(serving []*server) {
	redirects := make([]Redirect, len(serving))
	of := make(map[Redirect]*server, len(serving))
	for i, server := range serving {
		redirects[i], of[server.redirect] = server.redirect, server
	}
	s.cfg.Renew(redirects, func(r Redirect, err error) { of[r].fail(err) })
}

// check is nil as long as the server is well.
func (s *server) check(path string, tidy bool) error {
	if s.hung() >= hungAfter {
		return errHung
	}
	if !tidy {
		return nil
	}
	s.upstream.trim(1)
	if !s.sandbox.At(path) {
		return fmt.Errorf("sandbox %s: %w", path, kernel.ErrNotFound)
	}
	return nil
}
