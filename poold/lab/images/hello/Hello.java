package hello;

import jakarta.servlet.annotation.WebServlet;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Answers with how often it was asked before, which tells one warm replica from another.
 *
 * <p>GET / answers a number, from 0 on. GET /ready answers "ok" and does not count. POST /collect runs
 * a full garbage collection, for use before a checkpoint: a JRE has no other way to ask for one.
 */
@WebServlet("/")
public class Hello extends HttpServlet {
    private static final long serialVersionUID = 1L;

    private final AtomicLong count = new AtomicLong();

    @Override
    protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
        String path = request.getServletPath();
        if (path.equals("/ready")) {
            answer(response, "ok");
        } else if (path.equals("/") || path.isEmpty()) {
            answer(response, Long.toString(count.getAndIncrement()));
        } else {
            response.sendError(HttpServletResponse.SC_NOT_FOUND);
        }
    }

    @Override
    protected void doPost(HttpServletRequest request, HttpServletResponse response) throws IOException {
        if (request.getServletPath().equals("/collect")) {
            System.gc();
            answer(response, "ok");
        } else {
            response.sendError(HttpServletResponse.SC_NOT_FOUND);
        }
    }

    private static void answer(HttpServletResponse response, String text) throws IOException {
        response.setContentType("text/plain;charset=UTF-8");
        response.setHeader("Cache-Control", "no-store");
        response.getWriter().print(text + "\n");
    }
}
