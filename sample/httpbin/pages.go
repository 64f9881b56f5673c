package httpbin

import (
	"encoding/base64"
	"net/http"
)

const indexPage = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>httpbin</title></head>
<body><h1>httpbin</h1>
<p>Shows requests, and answers as it is asked to: <a href="/get">/get</a>, <a href="/headers">/headers</a>, <a href="/ip">/ip</a>,
<a href="/status/418">/status/418</a>, <a href="/delay/1">/delay/1</a>, <a href="/html">/html</a>, <a href="/json">/json</a>, <a href="/uuid">/uuid</a> and more.</p>
</body></html>
`

const htmlPage = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>A cairn</title></head>
<body><h1>A cairn</h1>
<p>A cairn is a heap of stones that somebody left to show the way to those who come later. One adds a stone in passing.</p>
</body></html>
`

const jsonPage = `{
  "slideshow": {
    "title": "Sample slide show",
    "author": "Yours truly",
    "date": "date of publication",
    "slides": [
      {"type": "all", "title": "Finding the way"},
      {"type": "all", "title": "Overview", "items": ["Why <em>stones</em> are good markers", "Who <em>piles</em> them"]}
    ]
  }
}
`

const xmlPage = `<?xml version="1.0" encoding="UTF-8"?>
<slideshow title="Sample slide show" author="Yours truly">
  <slide type="all"><title>Finding the way</title></slide>
  <slide type="all"><title>Overview</title><item>Why <em>stones</em> are good markers</item></slide>
</slideshow>
`

const utf8Page = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>UTF-8</title></head>
<body><p>Æøå · ĉĝĥ · Žluťoučký kůň · Ελληνικά · Кириллица · עברית · العربية · हिन्दी · ไทย · 日本語 · 한국어 · ∮∑∏√∞ · 🪨</p></body></html>
`

// dataURL shows bytes that are no text.
func dataURL(b []byte) string {
	return "data:application/octet-stream;base64," + base64.StdEncoding.EncodeToString(b)
}

func cookies(w http.ResponseWriter, r *http.Request) {
	m := make(map[string]string)
	for _, c := range r.Cookies() {
		m[c.Name] = c.Value
	}
	show(w, map[string]any{"cookies": m})
}

func setCookies(w http.ResponseWriter, r *http.Request) {
	for name, vs := range r.URL.Query() {
		for _, v := range vs {
			http.SetCookie(w, &http.Cookie{Name: name, Value: v, Path: "/", HttpOnly: true}) // drops what is not a cookie's
		}
	}
	http.Redirect(w, r, "/cookies", http.StatusFound)
}

func deleteCookies(w http.ResponseWriter, r *http.Request) {
	for name := range r.URL.Query() {
		http.SetCookie(w, &http.Cookie{Name: name, Path: "/", MaxAge: -1, HttpOnly: true})
	}
	http.Redirect(w, r, "/cookies", http.StatusFound)
}
